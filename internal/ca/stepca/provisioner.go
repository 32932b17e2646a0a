package stepca

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/smallstep/certificates/api"
	"github.com/smallstep/certificates/authority/config"
	"github.com/smallstep/certificates/authority/provisioner"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/token"
)

const (
	maxPages  = 100         // of provisioners, so that a cursor that goes in circles ends
	limitsTTL = time.Minute // how long a provisioner's limits are believed
)

// minter is what makes one token.
type minter = token.Minter

// source is where the tokens of one provisioner come from: a key that was configured, or the one the CA keeps for
// whoever has the password. Decrypting takes a good part of a second, so a key is kept until the CA has another.
type source struct {
	Provisioner

	fetch sync.Mutex // held while a key is decrypted, so that it is done once

	mu       sync.Mutex
	key      *token.Key
	shortest time.Duration
	longest  time.Duration
	known    time.Time // when the limits were asked for
}

func newSource(p Provisioner) (*source, error) {
	if p.Name == "" {
		return nil, ErrConfig.With("a provisioner of the certificate authority has no name").
			Advise("set STEP_CA_PROVISIONER and STEP_CA_SERVER_PROVISIONER, or leave them unset for the defaults")
	}
	s := &source{Provisioner: p}
	if len(p.KeyJSON) > 0 {
		key, err := token.ParseKey(p.KeyJSON, p.Password)
		if err != nil {
			return nil, err
		}
		s.key = key
	}
	return s, nil
}

func (s *source) configured() bool { return len(s.KeyJSON) > 0 }

func (s *source) current() *token.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.key
}

// match checks the source against the CA's list: the provisioner is there, and the key we sign with is its key. A
// key that was fetched, and no longer is the CA's, is fetched anew.
func (s *source) match(ctx context.Context, list provisioner.List) error {
	jwk := find(list, s.Name)
	if jwk == nil {
		return ca.Refuse(ca.ErrProvisioner, fmt.Errorf("no JWK provisioner %q among %d", s.Name, len(list)))
	}
	s.fetch.Lock()
	defer s.fetch.Unlock()
	key := s.current()
	switch {
	case key != nil && signsFor(key, jwk):
		return nil
	case s.configured():
		return ca.Refuse(ca.ErrKey, fmt.Errorf("provisioner %q has the key %q, tokens are signed by %q", s.Name, jwk.Key.KeyID, key.ID()))
	case jwk.EncryptedKey == "":
		return ca.Refuse(ca.ErrKeyUnusable.With("the certificate authority does not keep the provisioner's key").
			Advise("set STEP_CA_PROVISIONER_KEY_JSON to the provisioner's private JWK"), errNoKey)
	}
	if err := ctx.Err(); err != nil {
		return ca.ErrUnavailable.Because(err)
	}
	key, err := token.ParseKey([]byte(jwk.EncryptedKey), s.Password)
	if err != nil {
		return err
	}
	if !signsFor(key, jwk) {
		return ca.Refuse(ca.ErrKeyUnusable.With("the certificate authority keeps another key for the provisioner than the provisioner's").
			Advise("make the provisioner's key anew: step ca provisioner update --create"), errNoKey)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key = key
	return nil
}

// signsFor reports whether the CA would take key's tokens for those of the provisioner: it looks for the key id, and
// checks the signature with the public half.
func signsFor(key *token.Key, jwk *provisioner.JWK) bool {
	return key.ID() == jwk.Key.KeyID && key.Fits(jwk.Key)
}

var errNoKey = errors.New("no usable encryptedKey")

// find gives the JWK provisioner of a name, or nil.
func find(list provisioner.List, name string) *provisioner.JWK {
	for _, p := range list {
		if jwk, ok := p.(*provisioner.JWK); ok && jwk.Name == name && jwk.Key != nil {
			return jwk
		}
	}
	return nil
}

// knownLimits gives the limits when they were asked for a short while ago.
func (s *source) knownLimits(now time.Time) (shortest, longest time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	age := now.Sub(s.known)
	return s.shortest, s.longest, s.longest > 0 && age >= 0 && age < limitsTTL
}

// learnLimits takes the limits from the CA's list. Limits that the CA sets for all its provisioners are not in the
// list; where the provisioner has none of its own, Step-CA's defaults are assumed.
func (s *source) learnLimits(list provisioner.List, now time.Time) (shortest, longest time.Duration, err error) {
	jwk := find(list, s.Name)
	if jwk == nil {
		return 0, 0, ca.Refuse(ca.ErrProvisioner, fmt.Errorf("no JWK provisioner %q among %d", s.Name, len(list)))
	}
	claimer, err := provisioner.NewClaimer(jwk.Claims, config.GlobalProvisionerClaims)
	if err != nil {
		return 0, 0, ca.Refuse(ca.ErrAnswer, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shortest, s.longest, s.known = claimer.MinTLSCertDuration(), claimer.MaxTLSCertDuration(), now
	return s.shortest, s.longest, nil
}

// provisioners asks the CA for its provisioners, and tells its clock.
func (c *Client) provisioners(ctx context.Context) (list provisioner.List, date time.Time, err error) {
	err = c.retry(ctx, func() (err error) {
		list, date, err = c.provisionersOnce(ctx)
		return err
	})
	return list, date, refused(err)
}

// provisionersOnce makes one attempt, page by page.
func (c *Client) provisionersOnce(ctx context.Context) (list provisioner.List, date time.Time, err error) {
	query := url.Values{"limit": {"100"}}
	for range maxPages {
		a, err := c.once(ctx, http.MethodGet, "/1.0/provisioners?"+query.Encode(), nil)
		if err != nil {
			return nil, a.date, err
		}
		var page api.ProvisionersResponse
		if err := json.Unmarshal(a.body, &page); err != nil {
			return nil, a.date, ca.Refuse(ca.ErrAnswer, fmt.Errorf("GET /1.0/provisioners: %w", err))
		}
		list, date = append(list, page.Provisioners...), a.date
		if page.NextCursor == "" {
			return list, date, nil
		}
		query.Set("cursor", page.NextCursor)
	}
	return nil, date, ca.Refuse(ca.ErrAnswer, fmt.Errorf("GET /1.0/provisioners: over %d pages", maxPages))
}

// askLimits asks for a provisioner's limits.
func (c *Client) askLimits(ctx context.Context, s *source) (shortest, longest time.Duration, err error) {
	list, _, err := c.provisioners(ctx)
	if err != nil {
		return 0, 0, err
	}
	return s.learnLimits(list, c.now())
}

// minter gives the token maker of a source, asking the CA for the key when there is none yet.
func (c *Client) minter(ctx context.Context, s *source) (minter, error) {
	key := s.current()
	if key == nil {
		list, _, err := c.provisionersOnce(ctx)
		if err != nil {
			return minter{}, err
		}
		if err := s.match(ctx, list); err != nil {
			return minter{}, err
		}
		key = s.current()
	}
	return minter{
		Provisioner:    s.Name,
		Key:            key,
		SignAudience:   c.audience("/1.0/sign"),
		RevokeAudience: c.audience("/1.0/revoke"),
		Now:            c.now,
		Random:         rand.Reader,
	}, nil
}

// audience names an endpoint as the CA may know it. Behind a proxy that serves it under a path, Step-CA still knows
// itself by its host alone, so both spellings are sent.
func (c *Client) audience(path string) []string {
	full := c.endpoint(path)
	plain := (&url.URL{Scheme: c.base.Scheme, Host: c.base.Host, Path: path}).String()
	if full == plain {
		return []string{full}
	}
	return []string{full, plain}
}
