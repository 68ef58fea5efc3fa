package boot

// pcrWords describes what is usually measured into each PCR. The TCG PC Client Platform Firmware
// Profile, 3.3.4 defines PCR 0 to 7. Boot loaders, Linux and systemd use PCR 8 and above.
var pcrWords = [PCRs]string{
	"the firmware's code",
	"the firmware's settings and the boot menu",
	"firmware of plug-in cards",
	"settings of plug-in cards",
	"the boot loader",
	"the boot loader's settings and the partition table",
	"events of the machine's maker",
	"the Secure Boot settings and keys",
	"commands of the boot loader, such as the kernel's command line",
	"files that the boot loader read, such as the initial file system",
	"programs that the running system started (IMA); not compared",
	"the unified kernel image and the phases of the boot",
	"credentials, and additions to the kernel's command line",
	"system extensions",
	"keys of the machine's owner (MOK)",
	"the identity of the system: its volumes and its machine id",
}

// PCRWords describes a PCR's usual measurements for a person. It returns "" if `pcr` is not the
// number of a PCR that a quote can contain.
func PCRWords(pcr int) string {
	if pcr < 0 || pcr >= PCRs {
		return ""
	}
	return pcrWords[pcr]
}
