//go:build !linux

package wal

import "errors"

func mountTmpfs(dir, options string) error { return errors.New("needs Linux") }

func unmount(dir string) {}
