// Package enroll turns a single-use enrollment token into a certificate, exactly once.
//
// A redemption is two transactions with the CA between them, and none is held open while the CA signs:
//
//	        Claim (tx 1)                      sign, verify                 Activate (tx 2)
//	free ─────────────────▶ claimed ─────────────────────────────▶ spent, certificate recorded
//	 ▲                        │  │
//	 │   CA away, or refused  │  │ gateway killed: the lease of 30 s ends
//	 └────────────────────────┘  └──▶ free again, for the next claim
//
// A claim records, before the CA is asked, the serial the certificate will have and a generation. Activation
// must match the generation, so of any number of redemptions one can activate, and it looks at grant, peer and
// user again, so that a revoke during signing wins. A certificate that was signed and not activated is in no
// registry and opens nothing; it is found by its recorded serial and revoked at the CA.
package enroll
