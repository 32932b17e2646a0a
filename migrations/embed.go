// Package migrations holds the database schema as goose migrations, embedded in the binary.
//
// Within a release every migration is additive, so that replicas of the old and the new version run side by
// side during a rollout. The gateway applies them under an advisory lock: see internal/postgres.
package migrations

import "embed"

// FS holds every migration, named NNNNN_name.sql.
//
//go:embed *.sql
var FS embed.FS
