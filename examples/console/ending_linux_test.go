package main

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// cooked reports whether the terminal edits lines and shows what is typed, as a shell needs it.
func (p *pty) cooked() bool {
	var state syscall.Termios
	ioctl(p.t, p.side, syscall.TCGETS, unsafe.Pointer(&state))
	return state.Lflag&syscall.ICANON != 0 && state.Lflag&syscall.ECHO != 0
}

// Whatever asks a serving console to end, it hands the chat over first.
func TestEveryEndHandsOver(t *testing.T) {
	flags := with(startDNS(t), "-every", "0")
	ends := map[string]func(p *pty){
		"Ctrl-C":          func(p *pty) { p.press("\x03") },
		"Ctrl-D":          func(p *pty) { p.press("\x04") },
		"SIGINT":          func(p *pty) { p.cmd.Process.Signal(os.Interrupt) },
		"SIGTERM":         func(p *pty) { p.cmd.Process.Signal(syscall.SIGTERM) },
		"SIGHUP":          func(p *pty) { p.cmd.Process.Signal(syscall.SIGHUP) },
		"a closed window": func(p *pty) { p.hangUp() },
	}
	number := 0
	for name, end := range ends {
		number++
		flags := with(flags, "-u", fmt.Sprintf("chat-%d", number))
		alice := startOnTerminal(t, with(flags, "-s", "-name", "alice")...)
		alice.await("* alice joined")
		bob := start(t, "console", with(flags, "-name", "bob")...)
		bob.await("bob joined")
		end(alice)
		bob.await(`\* chat-. moved to host-`) // after a crash, bob would see "lost its host"
		require.Zero(t, alice.status(), "%s: %q", name, alice.text())
		if name != "a closed window" {
			require.True(t, alice.cooked(), name)
		}
	}
}

func TestChatnodeHandsOver(t *testing.T) {
	flags := with(startDNS(t), "-every", "0")
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		flags := with(flags, "-u", fmt.Sprintf("chat-%d", s))
		node := start(t, "chatnode", with(flags, "-s")...)
		node.await("serving chat-")
		bob := start(t, "console", with(flags, "-name", "bob")...)
		bob.await("bob joined")
		require.NoError(t, node.cmd.Process.Signal(s))
		bob.await(`\* chat-\d+ moved to host-`)
		require.Zero(t, node.end(), "%v: %s", s, node.stderr())
	}
}

// A host that serves says that it is the only one with a copy, once another one has left, and that this is over.
func TestOnlyCopyIsShown(t *testing.T) {
	flags := with(startDNS(t), "-every", "0")
	alice := start(t, "console", with(flags, "-s", "-name", "alice")...)
	alice.await("alice joined")
	node := start(t, "chatnode", flags...)
	node.await("standing by with a copy")
	require.NoError(t, node.cmd.Process.Kill())
	alice.awaitError("no other host holds a copy of backend.com: if this process fails, its messages are lost")
	start(t, "chatnode", flags...).await("standing by with a copy")
	alice.awaitError("another host holds a copy of backend.com again")
}

// startStranded starts a console whose chat then loses its only host, and types a line that is not sent.
func startStranded(t *testing.T, flags []string) *pty {
	node := start(t, "chatnode", with(flags, "-s")...)
	node.await("serving backend.com")
	alice := startOnTerminal(t, with(flags, "-name", "alice", "-client_only")...)
	alice.await("* alice joined")
	require.NoError(t, node.cmd.Process.Kill())
	<-node.ended
	alice.press("lost\r")
	alice.await("alice (1 line pending)> ")
	return alice
}

// A Ctrl-C while the program is leaving ends it at once. It restores the terminal whenever that comes.
func TestSecondCtrlC(t *testing.T) {
	flags := with(startDNS(t), "-every", "0", "-standbys", "0")
	alice := startStranded(t, flags)
	require.False(t, alice.cooked())
	alice.press("\x03")
	for deadline := time.Now().Add(patience); !alice.cooked(); time.Sleep(5 * time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "%q", alice.text())
	}
	again := time.Now()
	alice.press("\x03")
	require.Equal(t, 128+int(syscall.SIGINT), alice.status(), "%q", alice.text())
	require.Less(t, time.Since(again), time.Second)
	require.True(t, alice.cooked())

	// It need not wait for the answer to a command.
	node := start(t, "chatnode", with(flags, "-s", "-reset")...)
	node.await("serving backend.com")
	carol := startOnTerminal(t, with(flags, "-name", "carol", "-client_only")...)
	carol.await("* carol joined")
	require.NoError(t, node.cmd.Process.Kill())
	<-node.ended
	carol.press("/who\r")
	time.Sleep(200 * time.Millisecond) // until the query is under way
	pressed := time.Now()
	carol.press("\x03")
	carol.await("cannot list the participants")
	require.Less(t, time.Since(pressed), answerTimeout/2)
	require.True(t, carol.cooked())
	carol.press("\x03")
	require.Equal(t, 128+int(syscall.SIGINT), carol.status(), "%q", carol.text())

	// A signal leaves the terminal in raw mode, while the line is pending.
	bob := startOnTerminal(t, with(flags, "-name", "bob", "-client_only")...)
	bob.await("* backend.com was last served by ")
	require.NoError(t, bob.cmd.Process.Signal(syscall.SIGSTOP))
	require.NoError(t, bob.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, bob.cmd.Process.Signal(os.Interrupt))
	require.NoError(t, bob.cmd.Process.Signal(syscall.SIGCONT))
	bob.status()
	require.True(t, bob.cooked())
}

// A window can be closed whatever the console is waiting for.
func TestCloseWindowWhileWaiting(t *testing.T) {
	flags := with(startDNS(t), "-every", "0", "-standbys", "0")
	early := startOnTerminal(t, with(flags, "-name", "early", "-client_only")...)
	early.await("no host serves backend.com yet")
	early.hangUp()
	early.status()

	alice := startStranded(t, flags)
	alice.hangUp()
	alice.status()
}
