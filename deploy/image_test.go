package deploy_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mosaicstack/gateway/internal/config"
)

// enterEnv makes this program, run again, enter an image instead of running tests.
const enterEnv = "MOSAIC_TEST_ENTER_IMAGE"

func TestMain(m *testing.M) {
	if root := os.Getenv(enterEnv); root != "" {
		fmt.Fprintln(os.Stderr, "enter image:", enter(root))
		os.Exit(125)
	}
	os.Exit(m.Run())
}

// defaultOf is a setting's default.
func defaultOf(t *testing.T, name string) string {
	t.Helper()
	for _, s := range config.Settings() {
		if s.Name == name {
			return s.Default
		}
	}
	t.Fatalf("there is no setting %s", name)
	return ""
}

// image is the last stage of the Dockerfile, laid out in a directory.
type image struct {
	root     string
	env      []string
	uid, gid int
	volumes  []string
	entry    []string
	cmd      []string
	probe    []string
}

func newImage(t *testing.T) image {
	t.Helper()
	stages := readDockerfile(t)
	last := stages[len(stages)-1]
	out := build(t, stages[0])
	img := image{root: filepath.Join(t.TempDir(), "root")}
	if err := os.MkdirAll(filepath.Join(img.root, "proc"), 0o755); err != nil { //nolint:gosec // every container has a /proc
		t.Fatal(err)
	}
	for _, s := range last.of("COPY") {
		words := strings.Fields(s.args)
		if s.flags["from"] != stages[0].name || len(words) != 2 {
			t.Fatalf("COPY %s: not one file of the build stage", s.args)
		}
		from := words[0]
		if rest, ok := strings.CutPrefix(from, "/out/"); ok {
			from = filepath.Join(out, rest)
		}
		img.add(t, from, words[1], s.flags["chmod"], s.flags["chown"])
	}
	for _, s := range last.of("ENV") {
		img.env = append(img.env, strings.Fields(s.args)...)
	}
	for _, s := range last.of("VOLUME") {
		img.volumes = append(img.volumes, strings.Fields(s.args)...)
	}
	user, group, _ := strings.Cut(last.the(t, "USER").args, ":")
	var err error
	if img.uid, err = strconv.Atoi(user); err != nil || img.uid == 0 {
		t.Fatalf("the user %q is not a number other than 0, which an image without /etc/passwd needs", user)
	}
	if img.gid, err = strconv.Atoi(group); err != nil || img.gid == 0 {
		t.Fatalf("the group %q is not a number other than 0", group)
	}
	img.entry, img.cmd = last.the(t, "ENTRYPOINT").list(t), last.the(t, "CMD").list(t)
	probe := last.the(t, "HEALTHCHECK")
	probe.args = strings.TrimPrefix(probe.args, "CMD ")
	img.probe = probe.list(t)
	return img
}

// add copies a file, or makes a directory that is empty in the build stage.
func (img image) add(t *testing.T, from, to, mode, owner string) {
	t.Helper()
	place := filepath.Join(img.root, to)
	info, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	if info.IsDir() {
		err = os.MkdirAll(place, 0o755) //nolint:gosec // as a builder makes them
	} else {
		copyFile(t, from, place)
	}
	if err != nil {
		t.Fatal(err)
	}
	if mode != "" {
		bits, err := strconv.ParseUint(mode, 8, 9)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(place, os.FileMode(bits)); err != nil {
			t.Fatal(err)
		}
	}
	if user, group, ok := strings.Cut(owner, ":"); ok && os.Geteuid() == 0 {
		uid, err := strconv.Atoi(user)
		if err != nil {
			t.Fatal(err)
		}
		gid, err := strconv.Atoi(group)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(place, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
}

// command is a process in the image, as a container with a read-only root is: own mounts, nothing outside the root,
// the image's user, no capability. Volumes are empty and writable.
func (img image) command(t *testing.T, args []string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...) // by this name, because the user may not walk to the program
	cmd.Env = append(append(append([]string{}, img.env...), env...), enterEnv+"="+img.root, volumesEnv+"="+strings.Join(img.volumes, ":"))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNS,
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SYS_CHROOT, unix.CAP_DAC_READ_SEARCH},
	}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(img.uid), Gid: uint32(img.gid)} //nolint:gosec // of the Dockerfile
		return cmd
	}
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: img.uid, HostID: os.Getuid(), Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: img.gid, HostID: os.Getgid(), Size: 1}}
	return cmd
}

// volumesEnv names the volumes to mount.
const volumesEnv = "MOSAIC_TEST_IMAGE_VOLUMES"

// enter mounts the root read-only, makes it this process's root, drops what that took and becomes the program.
func enter(root string) error {
	runtime.LockOSThread() // capabilities are a thread's
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to itself: %w", err)
	}
	if err := unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind the root: %w", err)
	}
	for volume := range strings.SplitSeq(os.Getenv(volumesEnv), ":") {
		if volume == "" {
			continue
		}
		if err := unix.Mount("tmpfs", filepath.Join(root, volume), "tmpfs", 0, fmt.Sprintf("mode=0700,uid=%d,gid=%d", os.Getuid(), os.Getgid())); err != nil {
			return fmt.Errorf("mount the volume %s: %w", volume, err)
		}
	}
	if err := unix.Mount("/proc", filepath.Join(root, "proc"), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("", root, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	if err := errors.Join(unix.Chroot(root), os.Chdir("/")); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := os.WriteFile("/written", nil, 0o600); !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EACCES) {
		return fmt.Errorf("the root can be written to: %w", err)
	}
	var env []string
	for _, pair := range os.Environ() {
		if !strings.HasPrefix(pair, enterEnv) && !strings.HasPrefix(pair, volumesEnv) {
			env = append(env, pair)
		}
	}
	return unix.Exec(os.Args[1], os.Args[1:], env)
}

// settings are a federated gateway's whose parts are all away: a container is alive before they come.
func settings(port string) []string {
	return []string{
		"MOSAIC_TIER=federated", "DATABASE_URL=postgres://mosaic:pw@127.0.0.1:1/mosaic", "VALKEY_URL=redis://:pw@127.0.0.1:1/0",
		"GATEWAY_PORT=" + port, "MOSAIC_PUBLIC_URL=https://gateway.example", "MOSAIC_FEDERATION_PORT=0", "MOSAIC_FEDERATION_URL=https://fed.example",
		"BETTER_AUTH_SECRET=0123456789abcdef0123456789abcdef", "STEP_CA_URL=https://127.0.0.1:1", "STEP_CA_PROVISIONER_PASSWORD=pw",
		"STEP_CA_ROOT_CERT_PATH=/etc/ssl/certs/ca-certificates.crt", // there is no other certificate in the image
	}
}

// The image starts, is alive before its parts are there, passes its own health check and stops on its signal: with an
// empty root but for what the Dockerfile copies, read-only, as the Dockerfile's user.
func TestTheImageRuns(t *testing.T) {
	t.Parallel()
	img := newImage(t)

	out, err := img.command(t, append(append([]string{}, img.entry...), "--version")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "devel") {
		t.Fatalf("--version: %v %s", err, out)
	}
	const tries = 3 // a port that was free a moment ago may not be any more
	for try := 1; ; try++ {
		port := freePort(t)
		err := img.serve(t, port)
		if err == nil {
			return
		}
		if try == tries {
			t.Fatal(err)
		}
	}
}

func (img image) serve(t *testing.T, port string) error {
	t.Helper()
	var logs bytes.Buffer
	cmd := img.command(t, append(append([]string{}, img.entry...), img.cmd...), settings(port)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	waits := make(chan bool, 1) // true once it says that it waits for a part, and so answers probes
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			logs.WriteString(lines.Text() + "\n")
			if strings.Contains(lines.Text(), "database_unavailable") {
				select {
				case waits <- true:
				default:
				}
			}
		}
		select {
		case waits <- false:
		default:
		}
	}()
	defer func() {
		_ = cmd.Process.Kill()
		<-ended
		_ = cmd.Wait()
	}()
	if !<-waits {
		return fmt.Errorf("it ended:\n%s", logs.String()) //nolint:err113 // a test
	}
	resp, err := http.Get("http://127.0.0.1:" + port + "/health/live") //nolint:noctx // a test
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("/health/live: %d", resp.StatusCode)
	}
	if out, err := img.command(t, img.probe, settings(port)...).CombinedOutput(); err != nil {
		t.Errorf("health check: %v %s", err, out)
	}
	if out, err := img.command(t, img.probe, settings(freePort(t))...).CombinedOutput(); err == nil {
		t.Errorf("the health check of a gateway that is not there passed: %s", out)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-ended:
	case <-time.After(30 * time.Second): // the stack's stop_grace_period
		t.Error("it does not stop")
		return nil
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("stopped with %v\n%s", err, logs.String())
	}
	return nil
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
