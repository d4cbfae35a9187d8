package migrate

import (
	"fmt"
	"io"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// benchRole is the main function of a process that a benchmark has started: it does its part until standard input ends.
func benchRole(role string) error {
	arg, secure := os.Getenv("ROAM_BENCH_ARG"), os.Getenv("ROAM_BENCH_TLS") != ""
	switch role {
	case "echo":
		n, err := newLimitNet(secure)
		if err != nil {
			return err
		}
		l, err := serveLimit(n, arg, os.Getenv("ROAM_BENCH_OWN") != "")
		if err != nil {
			return err
		}
		fmt.Println(l.Addr())
	case "names":
		return moveNames(secure)
	case "mover":
		return moveHost(arg, secure)
	case "switch-names":
		return switchNames()
	case "switch-host":
		n, err := newLimitNet(secure)
		if err != nil {
			return err
		}
		return (&switchHost{net: n}).run(arg)
	case "beside-host":
		return besideHost(arg)
	case "beside-load":
		return besideLoad(arg)
	case "host":
		n, err := roleNode(arg, "", secure)
		if err != nil {
			return err
		}
		if _, err := n.Host(n.ctx, "svc", func() Migratable { return new(counter) }, Policy{}); err != nil {
			return err
		}
		fmt.Println("ready")
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// roleNames is how a process reaches the resolver at names, and others. It lasts as long as the process.
func roleNames(names string, secure bool) (*transport.TCP, *resolver.Client, error) {
	tr, err := transport.NewTCP(transport.TCPConfig{Open: true, InsecurePlaintext: !secure})
	if err != nil {
		return nil, nil, err
	}
	res, err := resolver.NewClient(resolver.ClientConfig{Transport: tr, Server: transport.Peer{Addr: names}})
	return tr, res, err
}

// roleNode is the node of a process that is a host; an id of "" means any. Its connections last as long as the process.
func roleNode(names, id string, secure bool) (*Node, error) {
	tr, res, err := roleNames(names, secure)
	if err != nil {
		return nil, err
	}
	return NewNode(NodeConfig{Resolver: res, Transport: tr, ID: id, Listen: "127.0.0.1:0"})
}

// roleTLS tells a process to use TLS, or not.
func roleTLS(secure bool) []string {
	if secure {
		return []string{"ROAM_BENCH_TLS=1"}
	}
	return nil
}

// benchProcess starts a process and returns the line that it prints when it is ready.
func benchProcess(b *testing.B, role, arg string, secure bool) string {
	_, ready := startRole(b, role, arg, roleTLS(secure)...)
	return ready
}

// benchHosts is benchPair with each host, and the resolver's clients, in processes of their own.
func benchHosts(b *testing.B, secure bool) resolver.Resolver {
	addr := benchNames(b, resolver.ServerConfig{Transport: benchTCP(b, secure)})
	res := benchResolver(b, benchTCP(b, secure), addr)
	for range 2 {
		benchProcess(b, "host", addr, secure)
	}
	awaitInSync(b, res, "svc", 2)
	return res
}

// benchNames is a resolver's server in this process.
func benchNames(b *testing.B, cfg resolver.ServerConfig) (addr string) {
	srv, err := resolver.NewServer(cfg)
	require.NoError(b, err)
	b.Cleanup(func() { srv.Close() })
	addr, err = srv.Listen("127.0.0.1:0")
	require.NoError(b, err)
	return addr
}

// benchResolver is a client of the resolver at addr.
func benchResolver(b *testing.B, tr transport.Transport, addr string) resolver.Resolver {
	res, err := resolver.NewClient(resolver.ClientConfig{Transport: tr, Server: transport.Peer{Addr: addr}})
	require.NoError(b, err)
	b.Cleanup(func() { res.Close() })
	return res
}

// awaitInSync waits until so many hosts of a service are in sync.
func awaitInSync(b *testing.B, res resolver.Resolver, name string, hosts int) {
	for rec := (resolver.Record{}); len(rec.ISR) < hosts; {
		var err error
		rec, err = res.Watch(b.Context(), name, rec.Version)
		require.NoError(b, err)
	}
}

// BenchmarkCommandProcesses is [BenchmarkCommand] with a process for each host, and one for the client, as it is in life: a
// message wakes a process up.
func BenchmarkCommandProcesses(b *testing.B) {
	for _, tls := range []bool{false, true} {
		n := benchNet(b, tls)
		b.Run(fmt.Sprintf("tls=%v/limit=bare", tls), func(b *testing.B) {
			b.Setenv("ROAM_BENCH_OWN", "1")
			latencies(b, bareClient(b, n, benchProcess(b, "echo", benchProcess(b, "echo", "", tls), tls)))
		})
		b.Run(fmt.Sprintf("tls=%v/limit", tls), func(b *testing.B) {
			latencies(b, sharedClient(b, n, benchProcess(b, "echo", benchProcess(b, "echo", "", tls), tls), 64))
		})
		b.Run(fmt.Sprintf("tls=%v/roam", tls), func(b *testing.B) {
			latencies(b, benchClient(b, benchHosts(b, tls), tls, 64))
		})
	}
}

// BenchmarkCommandsProcesses is [BenchmarkCommands] with a process for each host and one for all clients. The limit is an
// echo without a standby.
func BenchmarkCommandsProcesses(b *testing.B) {
	for _, tls := range []bool{false, true} {
		b.Run(fmt.Sprintf("tls=%v/limit", tls), func(b *testing.B) {
			n, addr := benchNet(b, tls), benchProcess(b, "echo", "", tls)
			inSessions(b, func() func() { return bareClient(b, n, addr) })
		})
		b.Run(fmt.Sprintf("tls=%v/roam", tls), func(b *testing.B) {
			res := benchHosts(b, tls)
			inSessions(b, func() func() { return benchClient(b, res, tls, 64) })
		})
	}
}

// inSessions makes 64 clients and shares b.N calls out among them.
func inSessions(b *testing.B, client func() func()) {
	fs := make([]func(), 64)
	for i := range fs {
		fs[i] = client()
	}
	concurrently(b, fs)
}

// concurrently shares b.N calls out among fs, each of which is called by a goroutine of its own.
func concurrently(b *testing.B, fs []func()) {
	b.ResetTimer()
	used := cpuTime()
	var wg sync.WaitGroup
	for i, f := range fs {
		n := b.N / len(fs)
		if i < b.N%len(fs) {
			n++
		}
		wg.Go(func() {
			for range n {
				f()
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(cpuTime()-used)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
}
