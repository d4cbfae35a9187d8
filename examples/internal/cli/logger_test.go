package cli

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWarningsAreLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		log := NewLogger(&b, "dns", false).With("service", "x.org")
		log.Info("not shown")
		log.Warn("refused", "peer", "10.0.0.1:5", "error", errors.New("its\x1b[2J key"))
		log.Warn("refused", "peer", "10.0.0.1:6")
		log.Error("another")
		const first = "dns: warning: refused (service x.org, peer 10.0.0.1:5, error its␛[2J key)\ndns: warning: another (service x.org)\n"
		require.Equal(t, first, b.String())
		time.Sleep(sameAgain)
		log.Warn("refused")
		require.Equal(t, first+"dns: warning: refused (service x.org)\n", b.String())

		b.Reset()
		NewLogger(&b, "dns", true).Debug("shown")
		require.Contains(t, b.String(), "level=DEBUG msg=shown")
	})
}
