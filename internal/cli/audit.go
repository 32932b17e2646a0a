package cli

import (
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

type entryDoc struct {
	RequestID    string    `json:"request_id"`
	Direction    string    `json:"direction"`
	Actor        string    `json:"actor"`
	PeerName     string    `json:"peer_name"`
	Verb         string    `json:"verb"`
	Resource     string    `json:"resource"`
	StatusCode   int       `json:"status_code"`
	Outcome      string    `json:"outcome"`
	DeniedReason string    `json:"denied_reason"`
	Detail       string    `json:"detail"`
	RowsOut      int       `json:"rows_out"`
	Occurrences  int       `json:"occurrences"`
	CreatedAt    time.Time `json:"created_at"`
}

// outcome is how a request ended, in one cell.
func (e entryDoc) outcome() string {
	s := fmt.Sprintf("%d %s", e.StatusCode, e.Outcome)
	if e.DeniedReason != "" {
		s += ": " + e.DeniedReason
	}
	if e.Occurrences > 1 {
		s += fmt.Sprintf(" (%d times)", e.Occurrences)
	}
	return s
}

func (a *app) audit() *cobra.Command {
	return a.group("audit", "Who asked what, and what they were told", a.auditList(), a.auditExport(), a.auditVerify(), a.auditCheckpoint(), a.auditKey())
}

func (a *app) auditList() *cobra.Command {
	var limit int
	var peer, user string
	cmd := a.leaf("list", nil, "List the audit log, newest first", func(cmd *cobra.Command, _ []string) error {
		r := get("api", "federation", "audit")
		r.query = url.Values{}
		if cmd.Flags().Changed("limit") {
			r.query.Set("limit", strconv.Itoa(limit))
		}
		for name, value := range map[string]string{"peer": peer, "user": user} {
			if value != "" {
				r.query.Set(name, value)
			}
		}
		_, doc, err := a.ask(cmd, r)
		if err != nil {
			return err
		}
		if l, err := decode[list](doc); err == nil && l.Page.NextCursor != "" {
			a.warn("only the newest %d entries are shown: --limit N shows more, up to 10000", l.Page.Limit)
		}
		return showList(a, doc, listing[entryDoc]{
			none:   "the audit log has nothing of that",
			header: []string{"TIME", "DIRECTION", "PEER", "ACTOR", "VERB", "RESOURCE", "OUTCOME", "ROWS", "DETAIL", "REQUEST ID"},
			columns: func() func(entryDoc) []string {
				return func(e entryDoc) []string {
					return []string{
						stamp(e.CreatedAt), e.Direction, e.PeerName, e.Actor, e.Verb, e.Resource, e.outcome(),
						strconv.Itoa(e.RowsOut), shorten(plain(e.Detail), cellWidth), e.RequestID,
					}
				}
			},
		})
	})
	cmd.Flags().IntVar(&limit, "limit", 0, "at most so many entries (default 50)")
	cmd.Flags().StringVar(&peer, "peer", "", "only those about this peer, by id or name")
	cmd.Flags().StringVar(&user, "user", "", "only those on behalf of this user, by id or email")
	return cmd
}
