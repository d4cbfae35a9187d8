//go:build unix

package main

import (
	"fmt"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// A chatnode, which has no input, continues the chat on a signal. It names the command that sends it.
func TestChatnodeContinuesAlone(t *testing.T) {
	state := filepath.Join(t.TempDir(), "records")
	dns, flags := runDNS(t, "-state", state)
	flags = with(flags, "-every", "0")
	alice := start(t, "console", with(flags, "-s", "-name", "alice")...)
	alice.say("from alice")
	alice.await("alice: from alice")
	node := start(t, "chatnode", flags...)
	node.await("standing by with a copy")
	require.NoError(t, node.cmd.Process.Signal(syscall.SIGUSR1))
	node.await("cannot continue backend.com: service backend.com is active on host ")

	loseRecordAndHost(t, dns, alice, flags, state)
	node.await(fmt.Sprintf(`that it holds \(kill -USR1 %d calls it\)`, node.cmd.Process.Pid))
	require.NoError(t, node.cmd.Process.Signal(syscall.SIGUSR1))
	node.await("continued backend.com with the copy in this process")
	bob := start(t, "console", with(flags, "-name", "bob", "-client_only")...)
	bob.await("alice: from alice")
}
