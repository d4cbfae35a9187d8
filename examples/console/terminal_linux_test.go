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

// pty is a console on a pseudo-terminal.
type pty struct {
	t    *testing.T
	keys *os.File
	cmd  *exec.Cmd
	gone chan struct{}

	mu    sync.Mutex
	shown strings.Builder
	news  chan struct{}
}

func ioctl(t *testing.T, f *os.File, request uintptr, arg *int32) {
	t.Helper()
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(arg)))
	require.Zero(t, errno)
}

func startOnTerminal(t *testing.T, args ...string) *pty {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo-terminals: ", err)
	}
	var unlocked, number int32
	ioctl(t, keys, syscall.TIOCSPTLCK, &unlocked)
	ioctl(t, keys, syscall.TIOCGPTN, &number)
	side, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	p := &pty{t: t, keys: keys, gone: make(chan struct{}), news: make(chan struct{}, 1)}
	p.cmd = exec.Command(os.Args[0], args...)
	p.cmd.Env = append(environ(t), consoleEnv+"=1", "TERM=xterm", "NO_COLOR=1")
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = side, side, side
	require.NoError(t, p.cmd.Start())
	require.NoError(t, side.Close())
	go func() {
		defer close(p.gone)
		b := make([]byte, 4096)
		for {
			n, err := keys.Read(b)
			if err != nil { // the console has exited
				p.cmd.Wait()
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
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.gone
		keys.Close()
	})
	return p
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
		p.mu.Lock()
		shown := p.shown.String()
		p.mu.Unlock()
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
	<-alice.gone
	require.Zero(t, alice.cmd.ProcessState.ExitCode())
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
	<-alice.gone
	require.Zero(t, alice.cmd.ProcessState.ExitCode())
}
