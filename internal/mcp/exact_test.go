package mcp

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// A number of a row reaches the session with all of its digits, though the library reads numbers as float64.
func TestANumberKeepsItsDigits(t *testing.T) {
	t.Parallel()
	srv := mcp.NewServer(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	mcp.AddTool(srv, &mcp.Tool{Name: "get_row"}, exactly(func(context.Context, *mcp.CallToolRequest, getIn) (*mcp.CallToolResult, rowOut, error) {
		row, err := marked(json.RawMessage(`{"source":"work","n":9007199254740993,"untrusted":false}`))
		return nil, rowOut{Row: row}, err
	}))
	srv.AddReceivingMiddleware(exact)
	here, there := mcp.NewInMemoryTransports()
	if _, err := srv.Connect(t.Context(), here, nil); err != nil {
		t.Fatal(err)
	}
	s, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil).Connect(t.Context(), there, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	res, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "get_row", Arguments: map[string]any{"source": "work", "resource": "tasks", "id": "x"}})
	if err != nil || res.IsError || len(res.Content) != 1 {
		t.Fatalf("%v %+v", err, res)
	}
	text, ok := res.Content[0].(*mcp.TextContent)
	if !ok || !strings.Contains(text.Text, `"n":9007199254740993`) || !strings.Contains(text.Text, `"untrusted":true`) {
		t.Errorf("%+v", res.Content[0])
	}
}
