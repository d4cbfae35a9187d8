//go:build unix && !linux

package main

import "syscall"

// procAttr keeps a terminal's signals from the children, which the parent ends.
func procAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
