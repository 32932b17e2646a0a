package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/mosaicstack/gateway/internal/fault"
)

// The bounds of a session on standard input.
const (
	maxMessage  = 1 << 20 // bytes of one message
	atOnce      = 8       // questions under way
	rpcRefused  = -32000  // JSON-RPC 2.0, section 5.1: implementation-defined server errors begin here
	protocolKey = "Mcp-Protocol-Version"
)

// mcp is a bridge: the tools are the gateway's, at /mcp, and this passes messages between them and an assistant that
// speaks over standard input and output. Nothing else is written to standard output.
func (a *app) mcp() *cobra.Command {
	var user string
	cmd := a.leaf("mcp", nil, "Let an assistant's session ask this gateway and its peers, over standard input and output (Model Context Protocol)",
		func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect(cmd)
			if err != nil {
				return err
			}
			b := &bridge{client: c, actFor: user, out: a.env.Stdout, room: make(chan struct{}, atOnce)}
			return b.run(cmd.Context(), a.env.Stdin)
		})
	cmd.Flags().StringVar(&user, "user", "", "ask as this user, by id or email")
	return cmd
}

type bridge struct {
	client   *client
	actFor   string
	room     chan struct{}
	protocol atomic.Pointer[string] // the version that the two sides agreed on

	mu  sync.Mutex
	out io.Writer
	err error // of the first write that failed
}

// message is what the bridge reads of a JSON-RPC message.
type message struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
}

var errMessage = &fault.Fault{
	Kind: fault.Invalid, Code: "message_invalid", Detail: "standard input holds something that is no JSON-RPC message",
	Hint: "this command is for assistants: let one start it, with: mosaic mcp",
}

// run passes messages on until standard input ends.
func (b *bridge) run(ctx context.Context, in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 64<<10), maxMessage)
	var wg sync.WaitGroup
	defer wg.Wait()
	for lines.Scan() {
		line := bytes.Clone(bytes.TrimSpace(lines.Bytes()))
		if len(line) == 0 {
			continue
		}
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			return errMessage.Because(err)
		}
		if m.Method == "initialize" {
			b.pass(ctx, m, line) // what follows needs its answer
			continue
		}
		b.room <- struct{}{}
		wg.Go(func() {
			defer func() { <-b.room }()
			b.pass(ctx, m, line)
		})
	}
	wg.Wait()
	if err := lines.Err(); err != nil {
		return errMessage.With("a message on standard input is longer than %d bytes, or cannot be read", maxMessage).Because(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// pass sends one message and writes its answer. A notification has none.
func (b *bridge) pass(ctx context.Context, m message, line []byte) {
	header := http.Header{"Accept": {"application/json, text/event-stream"}}
	if v := b.protocol.Load(); v != nil {
		header.Set(protocolKey, *v)
	}
	got, err := b.client.send(ctx, request{method: http.MethodPost, path: []string{"mcp"}, body: json.RawMessage(line), actFor: b.actFor, header: header})
	if err == nil && got.status >= http.StatusBadRequest {
		err = b.client.refused(got)
	}
	switch {
	case err != nil && len(m.ID) > 0:
		b.write(refusalOf(m.ID, err))
	case err != nil || len(got.body) == 0:
	default:
		if m.Method == "initialize" {
			b.agree(got.body)
		}
		var compact bytes.Buffer
		if json.Compact(&compact, got.body) == nil {
			b.write(compact.Bytes())
		}
	}
}

// agree notes the protocol version that the gateway answered with.
func (b *bridge) agree(body []byte) {
	var answer struct {
		Result struct {
			ProtocolVersion string `json:"protocolVersion"`
		} `json:"result"`
	}
	if json.Unmarshal(body, &answer) == nil && answer.Result.ProtocolVersion != "" {
		b.protocol.Store(&answer.Result.ProtocolVersion)
	}
}

func (b *bridge) write(line []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		if _, err := b.out.Write(append(line, '\n')); err != nil {
			b.err = errOutput.Because(fmt.Errorf("write to stdout: %w", err))
		}
	}
}

// refusalOf answers a request that the gateway refused, in the words it gave.
func refusalOf(id json.RawMessage, err error) []byte {
	f := fault.From(err)
	var r *refusal
	if errors.As(err, &r) {
		f = &r.says
	}
	type rpcError struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	answer := struct {
		Version string          `json:"jsonrpc"`
		ID      json.RawMessage `json:"id"`
		Error   rpcError        `json:"error"`
	}{"2.0", id, rpcError{rpcRefused, fmt.Sprintf("%s (%s); hint: %s", plain(f.Detail), plain(f.Code), plain(f.Hint))}}
	b, err := json.Marshal(answer)
	if err != nil {
		return []byte(`{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"internal"}}`)
	}
	return b
}
