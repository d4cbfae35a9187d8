//go:build !unix

package main

import "os"

// resetSignal is nil: there is no signal that requests to continue the chat with the copy in this process.
var resetSignal os.Signal
