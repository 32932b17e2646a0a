package devstack

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockPatience is for a lock whose holder is gone. The lock belongs to the open file, and a child that the holder
// was starting when it was killed has that file open until it calls exec: an instant, and longer on a busy machine.
const lockPatience = 500 * time.Millisecond

// lock takes the exclusive lock of an open file. It fails with unix.EWOULDBLOCK when somebody else keeps it.
func lock(f *os.File) error {
	deadline := time.NewTimer(lockPatience)
	defer deadline.Stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-deadline.C:
			return err
		case <-tick.C:
		}
	}
}

// unlock closes a file that holds a lock. Closing alone would leave the lock to a child that another goroutine is
// starting right now, for the reason given at lockPatience.
func unlock(f *os.File) error {
	return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close())
}
