//go:build unix && !linux

package main

import "syscall"

// procAttr protects the children, which the parent ends, from a terminal's signals.
func procAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
