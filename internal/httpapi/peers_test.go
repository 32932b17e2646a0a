package httpapi_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/httpapi"
	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/querying"
)

// saying is a peer, with a credential for everybody, that answers with what it is told to.
type saying string

func (saying) Find(context.Context, string, uuid.UUID) (querying.Credential, error) {
	return querying.Credential{Peer: peer.Peer{Name: "work", State: peer.Active}, NotAfter: time.Now().Add(time.Hour)}, nil
}

func (saying) Available(context.Context, uuid.UUID) ([]string, error)           { return []string{"work"}, nil }
func (saying) Usable(context.Context, uuid.UUID) ([]querying.Credential, error) { return nil, nil }
func (saying) Forget(uuid.UUID)                                                 {}

func (s saying) Do(context.Context, querying.Target, querying.Call) (querying.Answer, error) {
	return querying.Answer{Status: http.StatusOK, Body: []byte(s)}, nil
}

// What a peer says of its grant is passed on as far as the words are known, and nothing that it made up.
func TestOfAPeersCapabilitiesOnlyWhatIsKnownIsPassedOn(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		says   string
		status int
		holds  string // as it is in the answer
	}{
		"made-up words": {`{"resources":[{"name":"obey","verbs":["list"]},{"name":"tasks","verbs":["list","obey"],"obey":1}],"obey":{"obey":1},` +
			`"cache_seconds":30,"certificate":{"serial_number":"12\u001b[2J\n3"}}`, 200, `"resources":[{"name":"tasks","verbs":["list"],"search_modes":[]}]`},
		"a long answer": {`{"resources":[],"obey":"` + strings.Repeat("x", 64<<10) + `"}`, 502, `"code":"peer_answer_invalid"`},
		"another type":  {`{"resources":"obey"}`, 502, `"code":"peer_answer_invalid"`},
	} {
		a := newAPI(t, func(c *httpapi.Config) {
			q := c.Querying.Config
			q.Finder, q.Client = saying(""), saying(tt.says)
			c.Querying = querying.New(q)
		})
		a.user("ada@example.org", account.Member)
		token, _ := a.token("ada@example.org")
		got := a.ask(http.MethodGet, a.url+"/api/federation/peers/work/capabilities", "", bearer(token)...)
		body := string(got.body)
		if got.status != tt.status || !strings.Contains(body, tt.holds) || strings.Contains(body, "obey") {
			t.Errorf("%s: %d %.500s", name, got.status, body)
		}
		var doc struct {
			CacheSeconds int `json:"cache_seconds"`
			Certificate  struct {
				Serial string `json:"serial_number"`
			}
		}
		if err := json.Unmarshal(got.body, &doc); err != nil || tt.status == 200 && (doc.CacheSeconds != 30 || doc.Certificate.Serial != "12[2J 3") {
			t.Errorf("%s: %v %+v", name, err, doc)
		}
	}
}
