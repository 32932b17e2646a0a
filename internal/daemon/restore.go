package daemon

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/config"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/postgres"
)

// RestoreOptions is what `gateway accept-restore` was asked for.
type RestoreOptions struct {
	ServeOptions
	Moved      bool // the database lives elsewhere and has lost nothing
	WithoutCRL bool // the CA keeps no list, or has none any more
}

var errCRL = &fault.Fault{
	Kind: fault.Unavailable, Code: "restore_without_crl", Detail: "the CA gives no revocation list, which says what was revoked after the dump",
	Hint: "let the CA be reachable and keep a list; with --without-crl the restore is accepted without, and every grant has to be looked at",
}

// AcceptRestore makes a restored database the gateway's again. It takes the settings of `gateway serve`.
func AcceptRestore(ctx context.Context, o RestoreOptions) error {
	c, err := config.Load(o.Environ, "")
	if err != nil {
		return err
	}
	db, err := postgres.Open(ctx, postgres.Config{DSN: c.DatabaseURL.Reveal()})
	if err != nil {
		return err
	}
	defer db.Close()
	act := audit.Act{RequestID: uuid.NewString(), Actor: "accept-restore"}
	if o.Moved {
		if err := db.AcceptMove(ctx, act); err != nil {
			return err
		}
		return o.say(map[string]bool{"moved": true}, "The database lives here now, as it was.\n")
	}
	var listed []*big.Int
	switch {
	case o.WithoutCRL:
	case c.Tier == config.Federated:
		if listed, err = revokedAtCA(ctx, c, o); err != nil {
			return err
		}
	default:
		if live, err := db.LiveCertificates(ctx); err != nil || live > 0 {
			return errors.Join(err, errCRL.With("the standalone tier asks no CA, and %d certificates of this database are good", live))
		}
	}
	done, err := db.AcceptRestore(ctx, listed, act)
	if err != nil {
		return err
	}
	return o.say(done, summary(done))
}

// revokedAtCA reads the CA's list.
func revokedAtCA(ctx context.Context, c config.Config, o RestoreOptions) ([]*big.Int, error) {
	authority, _, err := caClient(c.StepCA, o.Now)
	if err != nil {
		return nil, err
	}
	defer authority.Close()
	der, err := authority.CRL(ctx)
	if err != nil {
		return nil, errCRL.Because(err)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, errCRL.Because(err)
	}
	serials := make([]*big.Int, len(list.RevokedCertificateEntries))
	for i, e := range list.RevokedCertificateEntries {
		serials[i] = e.SerialNumber
	}
	return serials, nil
}

func (o RestoreOptions) say(doc any, text string) error {
	if o.JSON {
		return json.NewEncoder(o.Stdout).Encode(doc)
	}
	_, err := io.WriteString(o.Stdout, text)
	return err
}

// summary tells a person what was done and what is left to them.
func summary(a postgres.Accepted) string {
	var b strings.Builder
	fmt.Fprintf(&b, "The restore is accepted.\n\n  enrollment tokens voided   %d\n  API tokens revoked         %d\n  certificates revoked       %d   (on the CA's list)\n  peers suspended            %d\n",
		a.EnrollmentTokens, a.APITokens, a.Certificates, len(a.Peers))
	b.WriteString("\nStart the gateway. Users, teams and roles are as they were at the dump: look at them, and make new API tokens.\n")
	if len(a.Peers) > 0 {
		b.WriteString("Look at the grants of each peer, revoke what was revoked since, and let the peer in again:\n\n  mosaic federation grant list\n")
		for _, name := range a.Peers {
			fmt.Fprintf(&b, "  mosaic federation peer resume %s\n", name)
		}
	}
	return b.String()
}
