package main

import (
	"crypto"
	"fmt"
	"os"
	"text/tabwriter"
)

const identityHash = crypto.SHA256

func (r *Result) print() {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "hub CPU per enrolment, in microseconds (%d cores, %s)\n\n", r.Machine.CPUs, r.Machine.Go)
	fmt.Fprintln(w, "EK\tEK leaf\tMakeCredential\tcertify\trequest\t2 signatures\tsum\tenrol\tratio\twith proof\tKB\tallocations\tactivate\tenrolments/s")
	for _, k := range r.Enrolment {
		c := k.Crypto
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.2f\t%.2f\t%.0f\t%.0f\t%.0f\t%.0f\n", k.EK, c["ek_leaf_verification"], c["make_credential_public_key"],
			c["certify_verification"], c["request_verification"], c["certificate_signatures"], k.CryptoSum, k.Enrol, k.Ratio, k.WithProof, k.Bytes/1000, k.Allocs, k.Activate, k.PerSecond)
	}
	fmt.Fprintf(w, "\nratio for half L-1 (RSA 2048), half H-3 (ECC P-384): %.2f\n", r.Ratio)
	fmt.Fprintf(w, "The ownership proof (Ed25519) takes %.0f microseconds. \"enrol\" includes it, \"sum\" does not; the ratio \"with proof\" counts it in both. Commits are durable.\n", r.Enrolment[0].Ownership)
	fmt.Fprintln(w, "\nchecking the evidence only\tone maker\tall makers, rules, an EK list\tratio")
	for _, k := range r.Enrolment {
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.2f\n", k.EK, k.Judged.Plain, k.Judged.Full, k.Judged.Ratio)
	}
	if s := r.Server; s != nil {
		fmt.Fprintf(w, "\nwhole hub process over TLS, two connections per enrolment, EK %s: %.2f ms CPU, %.0f enrolments/s (the load generator shares the machine)\n", s.EK, s.CPU/1000, s.PerSecond)
	}
	for _, a := range r.Agent {
		fmt.Fprintf(w, "\nagent, %s with EK %s: %d TPM commands, %.1f ms\n", a.TPM, a.EK, a.Commands, a.MS)
		for _, s := range a.Steps {
			fmt.Fprintf(w, "  %s\t%d\t%.1f ms\n", s.Step, s.Commands, s.MS)
		}
	}
	w.Flush()
}
