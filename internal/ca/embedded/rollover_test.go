package embedded_test

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/catest"
	"github.com/mosaicstack/gateway/internal/ca/embedded"
)

// leadsTo reports whether a chain is good for whoever trusts one root alone.
func leadsTo(chain ca.Chain, root *x509.Certificate) bool {
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	opts.Roots.AddCert(root)
	for _, c := range chain.Intermediates {
		opts.Intermediates.AddCert(c)
	}
	_, err := chain.Leaf.Verify(opts)
	return err == nil
}

func rootsOf(t *testing.T, a *embedded.Authority, want int) []*x509.Certificate {
	t.Helper()
	roots, err := a.Roots(t.Context())
	if err != nil || len(roots) != want {
		t.Fatalf("%d roots, want %d: %v", len(roots), want, err)
	}
	return roots
}

func TestARolloverHasTwoRootsInTrustAndThenOne(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	a := open(t, cfg)
	old := rootsOf(t, a, 1)[0]
	_, before := issue(t, a)
	if err := a.Finish(t.Context()); !errors.Is(err, embedded.ErrNotRolling) {
		t.Errorf("finished what was not begun: %v", err)
	}

	// Certificates are asked for all the while.
	stop := make(chan struct{})
	var asking sync.WaitGroup
	for range 3 {
		asking.Go(func() {
			for {
				req := catest.NewRequest(t)
				if _, err := a.IssueLeaf(t.Context(), req); err != nil {
					t.Errorf("while the root is rolled over: %v", err)
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	check(t, a.Rotate(t.Context()))
	roots := rootsOf(t, a, 2)
	if !roots[1].Equal(old) || roots[0].Equal(old) {
		t.Error("want the new root first, then the old one")
	}
	req, during := issue(t, a)
	catest.CheckLeaf(t, a, req, during)
	if !leadsTo(during, roots[0]) || !leadsTo(during, old) || !leadsTo(before, old) || leadsTo(before, roots[0]) {
		t.Error("in the overlap whoever trusts one of the roots has to trust what is signed now")
	}
	if err := a.Rotate(t.Context()); !errors.Is(err, embedded.ErrRolling) {
		t.Errorf("rotated twice: %v", err)
	}
	check(t, a.Finish(t.Context()))
	close(stop)
	asking.Wait()

	_, after := issue(t, a)
	if !rootsOf(t, a, 1)[0].Equal(roots[0]) || leadsTo(after, old) || !leadsTo(after, roots[0]) {
		t.Error("the old root has to be out of it after the end")
	}
	der, err := a.CRL(t.Context())
	check(t, err)
	list, err := x509.ParseRevocationList(der)
	check(t, err)
	if err := list.CheckSignatureFrom(after.Intermediates[0]); err != nil {
		t.Errorf("the list is not the new issuer's: %v", err)
	}
	shut(t, a)
	again := open(t, cfg)
	if !rootsOf(t, again, 1)[0].Equal(roots[0]) {
		t.Error("another root after a restart")
	}
	shut(t, again)
}

func TestARolloverNeedsTheRootsKey(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	a := open(t, cfg)
	check(t, os.Remove(filepath.Join(cfg.Dir, "secrets", "root_ca_key")))
	if err := a.Rotate(t.Context()); !errors.Is(err, embedded.ErrRootKey) {
		t.Errorf("rotated without it: %v", err)
	}
	rootsOf(t, a, 1)
	shut(t, a)
}

// TestAKilledRolloverGoesOn has every file of a rollover in its old place or in its new one.
func TestAKilledRolloverGoesOn(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	shut(t, open(t, cfg))
	before := t.TempDir()
	check(t, os.CopyFS(before, os.DirFS(cfg.Dir)))
	a := open(t, cfg)
	check(t, a.Rotate(t.Context()))
	roots := rootsOf(t, a, 2)
	shut(t, a)
	files := []string{"certs/root_ca.crt", "certs/intermediate_ca.crt", "secrets/intermediate_ca_key", "secrets/root_ca_key"}
	for moved := range len(files) + 1 {
		t.Run(strconv.Itoa(moved), func(t *testing.T) {
			t.Parallel()
			cut := cfg
			cut.Dir = filepath.Join(t.TempDir(), "ca")
			check(t, os.CopyFS(cut.Dir, os.DirFS(before)))
			check(t, os.Mkdir(filepath.Join(cut.Dir, "rollover"), 0o700))
			for i, file := range files {
				to := filepath.Join(cut.Dir, file)
				if i >= moved {
					to = filepath.Join(cut.Dir, "rollover", filepath.Base(file))
				}
				b, err := os.ReadFile(filepath.Join(cfg.Dir, file))
				check(t, err)
				check(t, os.WriteFile(to, b, 0o600))
			}
			a := open(t, cut)
			if got := rootsOf(t, a, 2); !got[0].Equal(roots[0]) || !got[1].Equal(roots[1]) {
				t.Error("other roots than the rollover's")
			}
			req, chain := issue(t, a)
			catest.CheckLeaf(t, a, req, chain)
			check(t, a.Finish(t.Context()))
			shut(t, a)
			if _, err := os.Stat(filepath.Join(cut.Dir, "rollover")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("something is left: %v", err)
			}
		})
	}
	t.Run("before it was whole", func(t *testing.T) {
		t.Parallel()
		cut := cfg
		cut.Dir = filepath.Join(t.TempDir(), "ca")
		check(t, os.CopyFS(cut.Dir, os.DirFS(before)))
		check(t, os.Mkdir(filepath.Join(cut.Dir, "rollover.new"), 0o700))
		a := open(t, cut)
		rootsOf(t, a, 1)
		check(t, a.Rotate(t.Context()))
		rootsOf(t, a, 2)
		shut(t, a)
	})
}

// TestANewRootLivesItsOwnTime: a rollover is also what is done because the old one ends.
func TestANewRootLivesItsOwnTime(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	shut(t, open(t, cfg))
	cfg.Now = func() time.Time { return time.Now().AddDate(0, 0, 1) }
	a := open(t, cfg)
	check(t, a.Rotate(t.Context()))
	roots := rootsOf(t, a, 2)
	if !roots[0].NotAfter.After(roots[1].NotAfter) || roots[0].Subject.CommonName == roots[1].Subject.CommonName {
		t.Errorf("%s until %s, after %s until %s", roots[0].Subject, roots[0].NotAfter, roots[1].Subject, roots[1].NotAfter)
	}
	shut(t, a)
}
