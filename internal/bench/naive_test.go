package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/unixsock"
)

// naiveConfig is what the handler needs that the gateway is compared with.
type naiveConfig struct {
	DataDir         string
	RootPEM         string
	CertPEM, KeyPEM string
	Owner           uuid.UUID
	Teams           []uuid.UUID
}

// task is a row as somebody would write it down who only wants to show it.
type task struct {
	ID        uuid.UUID  `json:"id"`
	OwnerID   uuid.UUID  `json:"owner_id"`
	TeamID    *uuid.UUID `json:"team_id"`
	Title     string     `json:"title"`
	Body      string     `json:"body"`
	Status    string     `json:"status"`
	CreatedAt time.Time  `json:"created_at"`
	UpdatedAt time.Time  `json:"updated_at"`
}

// committed ends the path of a handler that also commits a row of one number before it answers.
const committed = "-committed"

// naiveRole is a bare net/http handler behind mTLS: one query, Scan, encoding/json. It checks the client's chain in
// the handshake and nothing after it: no grant, no revocation, no limit, no audit, no log.
func naiveRole(ctx context.Context, config []byte) error {
	var c naiveConfig
	if err := json.Unmarshal(config, &c); err != nil {
		return err
	}
	pool, err := dataPool(ctx, c.DataDir, 16) // as the gateway's
	if err != nil {
		return err
	}
	defer pool.Close()
	cert, err := tls.X509KeyPair([]byte(c.CertPEM), []byte(c.KeyPEM))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(c.RootPEM))
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots,
	})
	if err != nil {
		return err
	}
	const row = `SELECT id, owner_id, team_id, title, body, status, created_at, updated_at FROM tasks WHERE `
	const newest = ` ORDER BY updated_at DESC, id DESC LIMIT 50`
	const personal = row + `owner_id = $1 AND team_id IS NULL` + newest
	// As the gateway reads them: one index range for each branch, merged.
	const merged = `SELECT * FROM ((` + personal + `) UNION ALL (` + row + `team_id = $2` + newest + `) UNION ALL (` + row + `team_id = $3` + newest + `)) r` + newest
	mux := http.NewServeMux()
	show := func(path, sql string, commit bool, args ...any) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			rows, err := pool.Query(r.Context(), sql, args...)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			var page struct {
				Data []task `json:"data"`
			}
			page.Data, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (t task, err error) {
				err = row.Scan(&t.ID, &t.OwnerID, &t.TeamID, &t.Title, &t.Body, &t.Status, &t.CreatedAt, &t.UpdatedAt)
				return t, err
			})
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			if commit {
				if _, err := pool.Exec(r.Context(), `INSERT INTO bench_commits VALUES (1)`); err != nil {
					http.Error(w, err.Error(), http.StatusInternalServerError)
					return
				}
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(page)
		})
	}
	handle := func(path, sql string, args ...any) {
		show(path, sql, false, args...)
		show(path+committed, sql, true, args...)
	}
	handle("/personal", personal, c.Owner)
	handle("/teams", merged, c.Owner, c.Teams[0], c.Teams[1])
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute}
	context.AfterFunc(ctx, func() { _ = s.Close() })
	if err := say(map[string]string{"address": l.Addr().String()}); err != nil {
		return err
	}
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// dataPool is a pool on the private server of a data directory.
func dataPool(ctx context.Context, dir string, conns int32) (*pgxpool.Pool, error) {
	c, err := pgxpool.ParseConfig("host='" + dir + "' port=5432 user=mosaic dbname=mosaic sslmode=disable")
	if err != nil {
		return nil, err
	}
	c.ConnConfig.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return unixsock.Dial(ctx, filepath.Join(dir, ".s.PGSQL.5432"))
	}
	c.MaxConns = conns
	return pgxpool.NewWithConfig(ctx, c)
}
