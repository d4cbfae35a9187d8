package migrate

import (
	"testing"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// BenchmarkFlood is a client that sends one command at a time: alone, and beside another one that always has 16,000
// commands on their way, on one connection. All are in one process, so that the flood takes its part of the processors, too.
func BenchmarkFlood(b *testing.B) {
	for _, flood := range []bool{false, true} {
		name := "alone"
		if flood {
			name = "beside"
		}
		b.Run(name, func(b *testing.B) {
			res, active := benchPair(b, false, 1)
			do := benchClient(b, res, false, 64)
			began := active.Status().Commit
			if flood {
				startFlood(b, active)
			}
			start := time.Now()
			latencies(b, do)
			b.ReportMetric(float64(active.Status().Commit-began)/time.Since(start).Seconds(), "commands/s")
		})
	}
}

// startFlood keeps 16 sessions busy over one connection.
func startFlood(b *testing.B, s *Service) {
	tr, err := transport.NewTCP(transport.TCPConfig{InsecurePlaintext: true, MaxPending: 1 << 30})
	require.NoError(b, err)
	b.Cleanup(func() { tr.Close() })
	conn, err := tr.Dial(b.Context(), transport.Peer{Addr: s.node.self.Addr}, nil)
	require.NoError(b, err)
	const sessions, window = 16, 1000
	for i := range uint64(sessions) {
		params, err := transport.Marshal(wire.OpenParams{Service: "svc", Session: i + 1})
		require.NoError(b, err)
		_, err = conn.Call(b.Context(), wire.MethodOpen, params)
		require.NoError(b, err)
		var seq uint64
		var next func()
		next = func() {
			seq++
			low := uint64(1)
			if seq > window {
				low = seq - window + 1
			}
			params, err := transport.Marshal(wire.DoParams{Service: "svc", Session: i + 1, Seq: seq, Low: low,
				Body: make([]byte, 64)})
			require.NoError(b, err)
			conn.Go(wire.MethodDo, params, func(_ []byte, err error) {
				if err == nil {
					next()
				}
			})
		}
		for range window {
			next()
		}
	}
}
