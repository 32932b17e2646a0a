package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/mosaicstack/gateway/internal/audit"
)

const insertOneName = "audit_one"

// insertOneSQL stores a row and its leaf.
var insertOneSQL = func() string {
	params := make([]string, copiedCount)
	for i := range params {
		params[i] = "$" + strconv.Itoa(i+1)
	}
	return fmt.Sprintf(`WITH b AS (
			INSERT INTO federation_audit_batches (log_id, first_leaf, leaf_count, leaves, root) VALUES ($%d, $%d, 1, $%d, $%d))
		INSERT INTO federation_audit_log (%s) VALUES (%s)`,
		copiedCount-1, copiedCount, copiedCount+1, copiedCount+2, copiedColumns, strings.Join(params, ", "))
}()

// insertOne stores a batch of one row, which is what a gateway that is asked one thing at a time has. A statement that
// is prepared is half of the server's work that a COPY of one row is. A row of a COPY's binary format is, but for the
// number of its fields in front, what a prepared statement takes as its parameters.
func insertOne(ctx context.Context, conn *pgx.Conn, b *audit.Batch) error {
	if _, err := conn.Prepare(ctx, insertOneName, insertOneSQL); err != nil { // once for each connection
		return err
	}
	row, err := appendRow(nil, b.Events[0], b.LogID, b.First)
	if err != nil {
		return err
	}
	params := make([][]byte, 0, copiedCount+2)
	for row = row[2:]; len(row) > 0; {
		n := int32(binary.BigEndian.Uint32(row)) //nolint:gosec // -1 is how null is written
		if row = row[4:]; n < 0 {
			params = append(params, nil)
			continue
		}
		params, row = append(params, row[:n:n]), row[n:]
	}
	params = append(params, b.Leaves, b.Root[:])
	return conn.PgConn().ExecPrepared(ctx, insertOneName, params, []int16{pgx.BinaryFormatCode}, nil).Read().Err
}
