// Package devstack is the ground the local tier stands on: a directory that belongs to one gateway, and a private
// PostgreSQL server inside it that lives and dies with the process.
//
// Nothing is set up by hand and nothing is shared. The server is started from the installed binaries, keeps its
// data in DIR/postgres, listens on no address but a unix socket inside that directory (mode 0700, so that only this
// user and root reach it), and survives kill -9 of either process: durability settings are the ones of production.
//
//	StartPostgres
//	     |
//	     v
//	[preparing] --- no binaries, foreign data, in use ---> fault
//	     |  initdb into postgres.init-*, then rename; end strays of an earlier run
//	     v
//	[starting] ---- exits, or is not ready in time ------> fault postgres_start_failed, with the log's last lines
//	     |  SELECT 1 answers
//	     v
//	[running] <------------------+
//	     |  exits unasked        |  after 0.1 s, doubling up to 5 s
//	     +----> [backing off] ---+
//	     |  Stop                 |  Stop
//	     v                       v
//	[stopping] ---------------> [stopped]
//	  SIGINT, then SIGQUIT, then SIGKILL
//
// # Root and short names
//
// PostgreSQL refuses to run as root, and DIR may be below /root, where no other user can enter. As root the server
// therefore runs as the user postgres, who owns the data directory but may be unable to walk to it: the directory
// is opened here, handed over as descriptor 3, and named /proc/self/fd/3. An ordinary user takes the same way. It
// also frees the directory from the 107 bytes a socket path may have; see package unixsock.
//
// # Death of the gateway
//
// The kernel sends the server SIGINT when the gateway dies, however it dies (PR_SET_PDEATHSIG). SIGINT is a fast
// shutdown: sessions are ended and a checkpoint is written, so that the next start finds nothing to recover.
// SIGQUIT would end sooner and leave recovery to the next start, which waits for an earlier server's end anyway.
// The signal is sent when the *thread* that started the child ends, so one goroutine keeps its thread locked from
// start to exit of the child.
package devstack
