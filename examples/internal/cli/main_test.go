package cli

import (
	"testing"

	"github.com/roam-go/roam/examples/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Exit(m.Run(), 2) } // os/signal keeps one goroutine
