package querying

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Who asks after the last who waited has gone asks anew, though the question that was given up has not ended yet: its
// answer would be that it was cancelled.
func TestAQuestionThatWasGivenUpIsNotJoined(t *testing.T) {
	t.Parallel()
	var f flights
	entered, release, landed := make(chan struct{}), make(chan struct{}), make(chan struct{})
	ctx, hangUp := context.WithCancel(t.Context())
	go func() {
		<-entered
		hangUp()
	}()
	if _, err := f.join(ctx, [32]byte{}, time.Hour, func(ctx context.Context) (got, error) {
		defer close(landed)
		close(entered)
		<-release
		return got{}, ctx.Err()
	}, func() {}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	asked := false
	_, err := f.join(t.Context(), [32]byte{}, time.Hour, func(context.Context) (got, error) {
		asked = true
		return got{}, nil
	}, func() { close(release) })
	if !asked || err != nil {
		t.Fatalf("asked %t: %v", asked, err)
	}
	close(release)
	<-landed
}
