package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// pty is a console on a pseudo-terminal, which is its controlling terminal.
type pty struct {
	t      *testing.T
	keys   *os.File // the side of the window
	side   *os.File // the console's side
	cmd    *exec.Cmd
	exited chan struct{}
	unread chan struct{} // closed when nothing more is shown

	mu    sync.Mutex
	shown strings.Builder
	news  chan struct{}
}

// ioctl leaves f in non-blocking mode, so that Close ends a Read.
func ioctl(t *testing.T, f *os.File, request uintptr, arg unsafe.Pointer) {
	t.Helper()
	raw, err := f.SyscallConn()
	require.NoError(t, err)
	var errno syscall.Errno
	require.NoError(t, raw.Control(func(fd uintptr) { _, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(arg)) }))
	require.Zero(t, errno)
}

func startOnTerminal(t *testing.T, args ...string) *pty {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo-terminals: ", err)
	}
	var unlocked, number int32
	ioctl(t, keys, syscall.TIOCSPTLCK, unsafe.Pointer(&unlocked))
	ioctl(t, keys, syscall.TIOCGPTN, unsafe.Pointer(&number))
	side, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	p := &pty{
		t: t, keys: keys, side: side, exited: make(chan struct{}), unread: make(chan struct{}), news: make(chan struct{}, 1),
	}
	p.cmd = exec.Command(os.Args[0], args...)
	p.cmd.Env = append(environ(t), consoleEnv+"=1", "TERM=xterm", "NO_COLOR=1")
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = side, side, side
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, p.cmd.Start())
	go func() {
		p.cmd.Wait()
		close(p.exited)
	}()
	go p.read()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.exited
		side.Close()
		keys.Close()
		<-p.unread
	})
	return p
}

// read keeps what the console shows.
func (p *pty) read() {
	defer close(p.unread)
	b := make([]byte, 4096)
	for {
		n, err := p.keys.Read(b)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.shown.Write(b[:n])
		p.mu.Unlock()
		select {
		case p.news <- struct{}{}:
		default:
		}
	}
}

// text returns what the console has shown.
func (p *pty) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shown.String()
}

// hangUp closes the window.
func (p *pty) hangUp() { p.keys.Close() }

// status waits until the console has exited, and returns its exit status.
func (p *pty) status() int {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(patience):
		require.FailNow(p.t, "the console does not exit", "%q", p.text())
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *pty) press(keys string) {
	p.t.Helper()
	_, err := p.keys.WriteString(keys)
	require.NoError(p.t, err)
}

// await waits until the console has shown a text.
func (p *pty) await(want string) {
	p.t.Helper()
	p.awaitAfter("", want)
}

// awaitAfter waits until the console has shown a text after mark.
func (p *pty) awaitAfter(mark, want string) {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		shown := p.text()
		if _, after, ok := strings.Cut(shown, mark); ok && strings.Contains(after, want) {
			return
		}
		select {
		case <-p.news:
		case <-timeout:
			require.FailNow(p.t, "not shown", "%q in %q", want, shown)
		}
	}
}

func TestTerminal(t *testing.T) {
	flags := with(startDNS(t), "-every", "0")
	node := start(t, "chatnode", with(flags, "-s")...)
	node.await("serving backend.com")
	bob := start(t, "console", with(flags, "-name", "bob")...)
	bob.await("bob joined")
	alice := startOnTerminal(t, with(flags, "-name", "alice", "-client_only")...)
	alice.await("* alice joined\r\n\r\x1b[Kalice> ")

	alice.press("half a li")
	alice.await("alice> half a li")
	bob.say("something else")
	alice.await(" bob: something else\r\n\r\x1b[Kalice> half a li\r\x1b[16C")
	bob.say("/msg alice a secret")
	alice.await(" bob (private): a secret\r\n\r\x1b[Kalice> half a li")
	require.NoError(t, node.cmd.Process.Signal(os.Interrupt)) // moves the chat to bob's process
	alice.await("* backend.com moved to host-")
	alice.press("ne\r")
	bob.await("alice: half a line")
	alice.await(" alice: half a line\r\n\r\x1b[Kalice> \r")
	alice.press("/msg bob mine\r")
	bob.await(`alice \(private\): mine`)
	alice.await(" alice (private to bob): mine\r\n")
	alice.press("\x1b[A\x15/help\r")
	alice.await("/quit             leave (also Ctrl-D, Ctrl-C)\r\n")
	alice.press("\x03")
	bob.await("alice left")
	require.Zero(t, alice.status())
}

func TestTerminalRejoins(t *testing.T) {
	flags := with(startDNS(t), "-every", "0", "-standbys", "0")
	alice := startOnTerminal(t, with(flags, "-name", "alice", "-client_only")...)
	alice.await("* no host serves backend.com yet")
	node := start(t, "chatnode", with(flags, "-s")...)
	alice.await("* alice joined\r\n")
	require.NoError(t, node.cmd.Process.Kill())
	<-node.ended
	alice.press("lost\r")
	alice.await("alice (1 line pending)> ")
	start(t, "chatnode", with(flags, "-s", "-reset")...).await("serving backend.com")
	alice.await(`not sent: "lost"`)
	alice.await("backend.com was reset")
	alice.awaitAfter("joining the chat that was reset", "* alice joined\r\n") // until then nothing can be sent
	alice.press("again\r")
	alice.await(" alice: again\r\n")
	alice.press("/quit\r")
	require.Zero(t, alice.status())
}
