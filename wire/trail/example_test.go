package trail_test

import (
	"fmt"

	"gangway/wire/trail"
)

// The hub parses a state that the device's owner posted.
func ExampleParseState() {
	s, err := trail.ParseState([]byte(`{
		"#spec": "pantavisor-service-system@1",
		"app/root.squashfs": "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a",
		"app/run.json": {"name": "app"}
	}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(s.ObjectSums())
	fmt.Printf("state-sha %.8x...\n", s.Sum())
	// Output:
	// [0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a]
	// state-sha e059f7232cfea555...
}

// A device writes the files of a state into a folder. It refuses a state with a file name that
// points outside this folder.
func ExampleState_Files() {
	for _, name := range []string{"app/run.json", "../run.json"} {
		s, err := trail.ParseState([]byte(`{"#spec": "pantavisor-service-system@1", "` + name + `": {"name": "app"}}`))
		if err != nil {
			fmt.Println(err)
			return
		}
		files, err := s.Files()
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s: %s\n", files[0].Path, files[0].Document)
	}
	// Output:
	// app/run.json: {"name":"app"}
	// the file name "../run.json" in the state is not a path inside a revision's folder
}

// The hub parses a device's progress report.
func ExampleParseProgress() {
	status, progress, err := trail.ParseProgress([]byte(`{"status": "DOWNLOADING", "status-msg": "3 objects", "progress": 25}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(status, status.Final(), trail.ReadReport(progress).Percent)
	_, _, err = trail.ParseProgress([]byte(`{"status": "CANCEL"}`)) // only the hub sets this status
	fmt.Println(err)
	// Output:
	// DOWNLOADING false 25
	// the progress report's status "CANCEL" is not a status that a device may report: [QUEUED DOWNLOADING SYNCING INPROGRESS TESTING DONE UPDATED ERROR WONTGO]
}

// The program pvr lists the revisions that are not final.
func ExampleParseStatuses() {
	fmt.Println(trail.ParseStatuses(`{"$nin":["DONE","ERROR","WONTGO","CANCELLED","UPDATED","CANCEL"]}`))
	// Output:
	// [NEW QUEUED DOWNLOADING SYNCING INPROGRESS TESTING] <nil>
}

// A device reads the record of an object. It ignores the host in the URL.
func ExampleParseRecord() {
	sum := "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"
	r, err := trail.ParseRecord([]byte(`{"sha256sum":"`+sum+`","size":"4096","signed-geturl":"https://elsewhere.example/local-s3/AbC_"}`), sum)
	fmt.Println(r.Size, r.Path, err)
	// Output:
	// 4096 /local-s3/AbC_ <nil>
}
