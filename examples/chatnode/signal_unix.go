//go:build unix

package main

import (
	"os"
	"syscall"
)

// resetSignal requests to continue the chat with the copy in this process.
var resetSignal os.Signal = syscall.SIGUSR1
