package onboard

import "encoding/hex"

// Two lists of 64 words each, from which nicks are made. The words are short, friendly and easy to
// understand on the telephone.
var (
	adjectives = [64]string{
		"able", "amber", "azure", "bold", "brave", "breezy", "bright", "brisk", "calm", "candid", "cheery", "clear",
		"clever", "coral", "cosy", "crisp", "daring", "deft", "dusky", "eager", "early", "fair", "fleet", "fond",
		"free", "fresh", "gentle", "glad", "golden", "grand", "happy", "hardy", "humble", "ivory", "jolly", "keen",
		"kind", "level", "light", "lively", "loyal", "lucky", "mellow", "merry", "mild", "misty", "neat", "noble",
		"plucky", "polite", "proud", "quick", "quiet", "rapid", "ready", "rosy", "sharp", "silver", "steady", "sunny",
		"swift", "tidy", "vivid", "witty",
	}
	nouns = [64]string{
		"anchor", "auk", "barge", "barque", "bay", "beacon", "bosun", "bow", "breeze", "brig", "buoy", "canoe",
		"cape", "clipper", "cod", "compass", "coot", "cove", "crab", "crane", "cutter", "dhow", "dinghy", "dolphin",
		"dory", "eider", "ferry", "fjord", "frigate", "gannet", "gull", "harbour", "heron", "hull", "island", "jetty",
		"kayak", "keel", "ketch", "lagoon", "lugger", "mast", "oar", "orca", "osprey", "otter", "petrel", "pier",
		"pilot", "plover", "port", "puffin", "quay", "reef", "sail", "schooner", "seal", "skiff", "sloop", "tern",
		"tide", "tug", "whale", "yawl",
	}
)

// Nick proposes a device's nick, which is made from its id: two words and four digits of the id,
// for example "brave-otter-3fa2".
func Nick(deviceID string) string {
	b, err := hex.DecodeString(deviceID)
	if err != nil || len(b) < 4 {
		return deviceID
	}
	return adjectives[b[0]%64] + "-" + nouns[b[1]%64] + "-" + deviceID[4:8]
}
