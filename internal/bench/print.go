package main

import (
	"crypto"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
)

const identityHash = crypto.SHA256

// print prints the result. It returns an error if an answer about boots was too slow.
func (r *Result) print() error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	if len(r.Enrolment) > 0 {
		r.printEnrolments(w)
	}
	for _, d := range r.Durable {
		fmt.Fprintf(w, "\ndurable enrolments with %s, EK %s: %.0f enrolments per second, %.1f enrolments per commit; only their cryptography: %.0f per second; share %.2f; CPU time of an enrolment: %.0f µs of the hub, %.0f µs of the database server (medians of %d rounds)\n",
			d.Engine, d.EK, d.Enrolments, d.OpsPerCommit, d.Crypto, d.Share, d.HubCPU, d.ServerCPU, d.Rounds)
	}
	if s := r.Server; s != nil {
		s.print(w)
	}
	for _, a := range r.Agent {
		fmt.Fprintf(w, "\nagent, %s with EK %s: %d TPM commands, %.1f ms\n", a.TPM, a.EK, a.Commands, a.MS)
		for _, s := range a.Steps {
			fmt.Fprintf(w, "  %s\t%d\t%.1f ms\n", s.Step, s.Commands, s.MS)
		}
	}
	for _, b := range r.Bytes {
		b.print(w)
	}
	var slow []string
	if r.Boots != nil {
		slow = r.Boots.print(w)
	}
	w.Flush()
	if len(slow) > 0 {
		return fmt.Errorf("these requests took more than %v (99th percentile): %q", bootBound, slow)
	}
	return nil
}

func (r *Result) printEnrolments(w io.Writer) {
	fmt.Fprintf(w, "hub CPU per enrolment, in microseconds (%d cores, %s)\n\n", r.Machine.CPUs, r.Machine.Go)
	fmt.Fprintln(w, "EK\tEK leaf\tMakeCredential\tcertify\trequest\t2 signatures\townership proof\tsum\tenrol\tratio\twithout proof\tKB\tallocations\tactivate\tenrolments/s")
	for _, k := range r.Enrolment {
		c := k.Crypto
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.2f\t%.2f\t%.0f\t%.0f\t%.0f\t%.0f\n", k.EK, c["ek_leaf_verification"], c["make_credential_public_key"],
			c["certify_verification"], c["request_verification"], c["certificate_signatures"], c[ownershipProof], k.CryptoSum, k.Enrol, k.Ratio, k.WithoutProof, k.Bytes/1000, k.Allocs, k.Activate, k.PerSecond)
	}
	fmt.Fprintf(w, "\nratio for half L-1 (RSA 2048), half H-3 (ECC P-384): %.2f\n", r.Ratio)
	fmt.Fprintln(w, "For the ratio \"without proof\", \"sum\" does not include the ownership proof (Ed25519). Commits are durable.")
	fmt.Fprintln(w, "\nchecking the evidence only\tone maker\tall makers, rules, an EK list\tratio")
	for _, k := range r.Enrolment {
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.2f\n", k.EK, k.Judged.Plain, k.Judged.Full, k.Judged.Ratio)
	}
}

func (s *Server) print(w io.Writer) {
	fmt.Fprintf(w, "\nwhole hub process over TLS, two connections per enrolment, EK %s (medians of %d rounds; the load generator shares the machine)\n", s.EK, s.Rounds)
	fmt.Fprintf(w, "raw handshake %.0f, raw mutual handshake %.0f, cryptography %.0f, enrolment %.0f microseconds; ratio %.2f; %.0f enrolments/s\n",
		s.Handshake, s.MutualHandshake, s.Crypto, s.CPU, s.Ratio, s.PerSecond)
	fmt.Fprintf(w, "poll of Pantavisor over a new connection: %.0f microseconds, the time of %.2f raw handshakes\npoll on an open connection: %.0f microseconds, of which HTTP takes %.0f, and the answer takes %.0f, the time of %.2f raw handshakes\n",
		s.Poll, s.PollRatio, s.Request, s.HTTP, s.Answer, s.AnswerRatio)
	fmt.Fprintf(w, "idle connection with a device's certificate: %.1f KiB of resident memory (measured with %d connections); the first request after the pause takes %.0f microseconds, and the second takes %.0f\n", s.IdleKiB, s.IdleOpen, s.Parked, s.Kept)
}
