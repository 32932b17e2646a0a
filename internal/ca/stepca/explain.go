package stepca

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/fault"
)

// How far the CA's clock may be from ours for a token of a minute: Step-CA gives a minute of leeway to its
// beginning and to its end (RFC 7519, section 4.1.4).
const (
	maxAhead  = time.Minute
	maxBehind = 2 * time.Minute
)

// withToken makes the attempts of one call that spends tokens: a fresh one for each. A refused token is explained.
// When the explanation is that the CA has changed the key we had from it, the call is made once more.
func (c *Client) withToken(ctx context.Context, s *source, mint func(minter) (string, error), do func(ott string) error) error {
	attempts := func() error {
		return c.retry(ctx, func() error {
			m, err := c.minter(ctx, s)
			if err != nil {
				return err
			}
			ott, err := mint(m)
			if err != nil {
				return err
			}
			return do(ott)
		})
	}
	used := s.current()
	err := attempts()
	var no *refusedError
	if !errors.As(err, &no) || no.status != http.StatusUnauthorized {
		return err
	}
	explained := c.explainUnauthorized(ctx, s, no)
	if now := s.current(); used != nil && now != used {
		if err = attempts(); !errors.As(err, &no) || no.status != http.StatusUnauthorized {
			return err
		}
	}
	return explained
}

// explainUnauthorized finds out why a token was refused. Step-CA says the same to every wrong token, on purpose; but
// whoever runs the gateway has to know which of four settings to correct, and each can be checked from here.
func (c *Client) explainUnauthorized(ctx context.Context, s *source, no *refusedError) error {
	if err := c.checkClock(no.answer.date); err != nil {
		return err
	}
	list, _, err := c.provisionersOnce(ctx)
	if err != nil {
		return ca.Refuse(ca.ErrRefused, errors.Join(no, err))
	}
	if err := s.match(ctx, list); err != nil {
		return err
	}
	return ca.Refuse(ca.ErrAudience, no)
}

// checkClock compares the CA's clock, as it was a moment ago, with ours.
func (c *Client) checkClock(date time.Time) error {
	if date.IsZero() {
		return nil
	}
	ahead := c.now().Sub(date)
	if ahead > maxAhead || -ahead > maxBehind {
		return ca.Refuse(ca.ErrClock, fmt.Errorf("the gateway is %v ahead of the CA", ahead.Round(time.Second)))
	}
	return nil
}

// explainForbidden tells a lifetime that the CA does not allow from everything else it forbids.
func (c *Client) explainForbidden(ctx context.Context, s *source, begin, end time.Time, no *refusedError) error {
	list, _, err := c.provisionersOnce(ctx)
	if err != nil {
		return ca.Refuse(ca.ErrPolicy, errors.Join(no, err))
	}
	shortest, longest, err := s.learnLimits(list, c.now())
	if err != nil {
		return ca.Refuse(ca.ErrPolicy, errors.Join(no, err))
	}
	if err := ca.CheckLimits(begin, end, shortest, longest, c.now()); err != nil {
		return fault.From(err).Because(no)
	}
	return ca.Refuse(ca.ErrPolicy, no)
}
