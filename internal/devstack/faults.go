package devstack

import "github.com/mosaicstack/gateway/internal/fault"

// What can be wrong with the directory.
var (
	// ErrDirForeign means that DIR holds something, and it is not ours.
	ErrDirForeign = &fault.Fault{
		Kind: fault.Invalid, Code: "dir_foreign",
		Detail: "the directory is not empty and was not made by mosaic",
		Hint:   "choose a missing or empty directory with --dir",
	}
	// ErrDirUnwritable means that this user may not keep data in DIR.
	ErrDirUnwritable = &fault.Fault{
		Kind: fault.Forbidden, Code: "dir_unwritable",
		Detail: "the directory cannot be written to",
		Hint:   "run as the user who owns the directory, or choose another one with --dir",
	}
	// ErrDirNotADirectory means that DIR, or a parent of it, is a file.
	ErrDirNotADirectory = &fault.Fault{
		Kind: fault.Invalid, Code: "dir_not_a_directory",
		Detail: "the path is not a directory",
		Hint:   "choose another path with --dir",
	}
	// ErrDirFormat means that DIR is ours but written in a way that this version cannot read.
	ErrDirFormat = &fault.Fault{
		Kind: fault.Invalid, Code: "dir_format",
		Detail: "the directory was written by a newer version of mosaic",
		Hint:   "run that version, or choose another directory with --dir",
	}
	// ErrDirInUse means that another gateway runs in DIR.
	ErrDirInUse = &fault.Fault{
		Kind: fault.Conflict, Code: "dir_in_use",
		Detail: "another gateway uses this directory",
		Hint:   "stop it, or choose another directory with --dir",
	}
)

// What can be wrong with the private PostgreSQL server.
var (
	// ErrPostgresMissing means that no usable server binaries are installed.
	ErrPostgresMissing = &fault.Fault{
		Kind: fault.Unavailable, Code: "postgres_missing",
		Detail: "PostgreSQL 15 or newer is not installed",
		Hint:   "run deploy/dev/setup.sh run, or install the packages postgresql and postgresql-VERSION-pgvector",
	}
	// ErrPgvectorMissing means that the server's extension directory has no pgvector.
	ErrPgvectorMissing = &fault.Fault{
		Kind: fault.Unavailable, Code: "pgvector_missing",
		Detail: "PostgreSQL is installed without the extension pgvector",
		Hint:   "run deploy/dev/setup.sh run, or install the package postgresql-VERSION-pgvector",
	}
	// ErrPostgresUserMissing means that we are root and there is no user to run the server as.
	ErrPostgresUserMissing = &fault.Fault{
		Kind: fault.Unavailable, Code: "postgres_user_missing",
		Detail: "PostgreSQL does not run as root, and this machine has no user postgres to run it as",
		Hint:   "run mosaic as an ordinary user, or create the user: useradd --system postgres",
	}
	// ErrPostgresVersion means that the data needs another version of PostgreSQL than the ones installed.
	ErrPostgresVersion = &fault.Fault{
		Kind: fault.Unavailable, Code: "postgres_version",
		Detail: "the data was written by a version of PostgreSQL that is not installed",
		Hint:   "install that version, or choose another directory with --dir",
	}
	// ErrPostgresDataForeign means that the data directory's place is taken.
	ErrPostgresDataForeign = &fault.Fault{
		Kind: fault.Conflict, Code: "postgres_data_foreign",
		Detail: "the place of the PostgreSQL data directory is taken by something else",
		Hint:   "move it away and start again",
	}
	// ErrPostgresInUse means that another supervisor holds the data directory.
	ErrPostgresInUse = &fault.Fault{
		Kind: fault.Conflict, Code: "postgres_in_use",
		Detail: "another process keeps a PostgreSQL server on this data directory",
		Hint:   "stop it, or choose another directory with --dir",
	}
	// ErrPostgresStartFailed means that the server or its initialisation ended, or was not ready in time.
	ErrPostgresStartFailed = &fault.Fault{
		Kind: fault.Unavailable, Code: "postgres_start_failed",
		Detail: "PostgreSQL did not start",
		Hint:   "set MOSAIC_LOG_LEVEL=debug to see all that PostgreSQL says",
	}
)
