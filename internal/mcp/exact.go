package mcp

import (
	"bytes"
	"context"
	"encoding/json"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// outcome is the key of a context under which a tool leaves its result.
type outcome struct{}

// exactly leaves the result of a tool for exact.
func exactly[In, Out any](tool mcp.ToolHandlerFor[In, Out]) mcp.ToolHandlerFor[In, Out] {
	return func(ctx context.Context, r *mcp.CallToolRequest, in In) (*mcp.CallToolResult, Out, error) {
		res, out, err := tool(ctx, r, in)
		if left, ok := ctx.Value(outcome{}).(*any); ok && err == nil {
			*left = out
		}
		return res, out, err
	}
}

// exact answers with the result as the tool gave it. The library checks a result against its schema and writes what it
// has read for that, where every number is a float64: one beyond 2^53 would come out as another.
func exact(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, r mcp.Request) (mcp.Result, error) {
		var left any
		res, err := next(context.WithValue(ctx, outcome{}, &left), method, r)
		called, ok := res.(*mcp.CallToolResult)
		if err != nil || !ok || called.IsError || left == nil {
			return res, err
		}
		doc, err := json.Marshal(left)
		if err != nil {
			return nil, err
		}
		called.StructuredContent = json.RawMessage(doc)
		called.Content = []mcp.Content{&mcp.TextContent{Text: string(doc)}}
		return called, nil
	}
}

// decode reads an object, with its numbers as they are written.
func decode(doc []byte) (map[string]any, error) {
	var out map[string]any
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	err := d.Decode(&out)
	return out, err
}
