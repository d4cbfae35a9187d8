package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/roam-go/roam/chatcore"
	"github.com/roam-go/roam/examples/internal/cli"
	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// childEnv is the environment variable with the childConfig of a child process as JSON. It is not set for the tour itself.
// Other users can see the arguments of a process, but not its environment.
const childEnv = "ROAM_TOUR_CHILD"

const serviceName = "tour.example"

// childConfig configures a child process.
type childConfig struct {
	Role  string // "dns", "host" or "client"
	Name  string
	Code  string        // of the realm, for the role of the child; a secret. For all but the DNS with its address
	Serve bool          // host: create the chat
	Every time.Duration // host: time between moves
	Rate  float64       // client: messages per second
}

// The commands that the tour writes to a child, one per line. At the end of its input the child exits, so it does not
// outlive the tour.
const (
	cmdWrite = "write" // start sending
	cmdStop  = "stop"  // stop sending, and report when all messages are acknowledged
)

// report is a line of JSON that a child writes to the tour.
type report struct {
	Ready   string      `json:"ready,omitempty"`   // ready; for the DNS, its address
	Key     string      `json:"key,omitempty"`     // the key of the DNS
	Role    *roleReport `json:"role,omitempty"`    // new role of a host
	Moved   *moveReport `json:"moved,omitempty"`   // a move observed by a client
	Sent    int         `json:"sent,omitempty"`    // total number of messages sent by a client
	Acked   []int       `json:"acked,omitempty"`   // numbers of the messages acknowledged since the last report
	Seen    []string    `json:"seen,omitempty"`    // texts of the messages received since the last report, in order
	Flushed bool        `json:"flushed,omitempty"` // all messages of a client are acknowledged
	Error   string      `json:"error,omitempty"`
}

type roleReport struct {
	Role  migrate.Role `json:"role"`
	Epoch uint64       `json:"epoch"`
	ISR   int          `json:"isr"`
}

type moveReport struct {
	Epoch   uint64        `json:"epoch"`
	Host    string        `json:"host"`
	Planned bool          `json:"planned"`
	Pause   time.Duration `json:"pause"`
}

// runChild runs a child process until the end of its standard input.
func runChild(config string) int {
	// Ctrl-C and a closed window reach all processes; the tour stops its children.
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	out := &reporter{out: json.NewEncoder(os.Stdout)}
	var p childConfig
	err := json.Unmarshal([]byte(config), &p)
	if err == nil {
		commands := make(chan string)
		go func() {
			in := bufio.NewScanner(os.Stdin)
			for in.Scan() {
				commands <- in.Text()
			}
			close(commands)
		}()
		switch p.Role {
		case "dns":
			err = runDNS(p, out, commands)
		case "host":
			err = runHost(p, out, commands)
		case "client":
			err = runClient(p, out, commands)
		default:
			err = fmt.Errorf("unknown role %q", p.Role)
		}
	}
	if err != nil {
		out.report(report{Error: cli.Printable(err.Error())})
		return 1
	}
	return 0
}

// reporter writes reports to the tour.
type reporter struct {
	mu  sync.Mutex
	out *json.Encoder
}

func (t *reporter) report(r report) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.out.Encode(r) != nil {
		os.Exit(1) // the tour has exited
	}
}

func runDNS(p childConfig, out *reporter, commands <-chan string) error {
	realm, _, err := transport.ParseCode(p.Code)
	if err != nil {
		return err
	}
	tr, err := cli.NewTransport("", transport.TCPConfig{Realm: realm})
	if err != nil {
		return err
	}
	defer tr.Close()
	server, err := resolver.NewServer(resolver.ServerConfig{Transport: tr})
	if err != nil {
		return err
	}
	defer server.Close()
	addr, err := server.Listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	out.report(report{Ready: addr, Key: tr.Key().String()})
	for range commands {
	}
	return nil
}

func (p childConfig) process() (*cli.Process, error) {
	f := cli.Flags{Join: p.Code, Service: serviceName, Serve: p.Serve, Every: p.Every, Standbys: 1}
	if err := f.FindDNS(nil); err != nil {
		return nil, err
	}
	proc, err := cli.Start(context.Background(), f, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return nil, err
	}
	proc.ID = p.Name
	return proc, nil
}

func runHost(p childConfig, out *reporter, commands <-chan string) error {
	proc, err := p.process()
	if err != nil {
		return err
	}
	err = proc.Listen(migrate.Hooks{
		Changed: func(st migrate.Status) {
			out.report(report{Role: &roleReport{st.Role, st.Record.Epoch, len(st.Record.ISR)}})
		},
		Failed: func(_ string, err error) { out.report(report{Error: err.Error()}) },
	})
	if err != nil {
		return err
	}
	if _, err := proc.Host(context.Background()); err != nil {
		return err
	}
	out.report(report{Ready: p.Name})
	for range commands {
	}
	// All hosts exit at the same time, so there is no host to hand over to.
	proc.Node.Close()
	return proc.Leave(context.Background())
}

// writer is a client that sends messages and reports what it receives.
type writer struct {
	childConfig
	out  *reporter
	chat *chatcore.Client

	mu  sync.Mutex
	now report // not written yet
}

const reportInterval = 100 * time.Millisecond

func runClient(p childConfig, out *reporter, commands <-chan string) error {
	proc, err := p.process()
	if err != nil {
		return err
	}
	ctx := context.Background()
	joining, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	w := &writer{childConfig: p, out: out}
	w.chat, err = chatcore.Join(joining, serviceName, chatcore.ClientConfig{
		Name: p.Name, Resolver: proc.Resolver, Transport: proc.Transport, Buffer: 1 << 20, Logger: proc.Log,
	})
	if err != nil {
		return err
	}
	var reading, reporting, writing sync.WaitGroup
	reading.Go(w.read)
	done := make(chan struct{})
	reporting.Go(func() { w.reportLoop(done) })
	out.report(report{Ready: p.Name})

	stop := make(chan struct{})
	stopped := sync.OnceFunc(func() { close(stop) })
	for c := range commands {
		switch c {
		case cmdWrite:
			writing.Go(func() { w.write(ctx, stop) })
		case cmdStop:
			stopped()
		}
	}
	stopped()
	bye, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err = w.chat.Leave(bye)
	writing.Wait()
	reading.Wait()
	close(done)
	reporting.Wait()
	proc.Leave(ctx)
	return err
}

// read records the messages that this client receives.
func (w *writer) read() {
	for m, err := range w.chat.Messages(context.Background()) {
		if err != nil {
			w.out.report(report{Error: err.Error()})
			return
		}
		w.mu.Lock()
		switch m.Kind {
		case chatcore.KindMessage:
			w.now.Seen = append(w.now.Seen, m.Text)
		case chatcore.KindMoved:
			w.mu.Unlock()
			w.out.report(report{Moved: &moveReport{m.Epoch, m.Host.ID, m.Planned, m.Pause}})
			w.mu.Lock()
		}
		w.mu.Unlock()
	}
}

// write sends numbered texts until stop is closed, and reports when all are acknowledged.
func (w *writer) write(ctx context.Context, stop <-chan struct{}) {
	type said struct {
		n    int
		call *migrate.Call
	}
	var acks sync.WaitGroup
	says := make(chan said, 4096)
	acks.Go(func() {
		for s := range says {
			if _, err := s.call.Reply(ctx); err != nil {
				w.out.report(report{Error: fmt.Sprintf("message %d was not accepted: %v", s.n, err)})
				continue
			}
			w.mu.Lock()
			w.now.Acked = append(w.now.Acked, s.n)
			w.mu.Unlock()
		}
	})
	begin := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; {
		for due := int(time.Since(begin).Seconds() * w.Rate); n < due; {
			call, err := w.chat.Send(ctx, text(w.Name, n+1))
			if err != nil {
				w.out.report(report{Error: err.Error()})
				break
			}
			n++
			w.mu.Lock()
			w.now.Sent = n
			w.mu.Unlock()
			says <- said{n, call}
			select {
			case <-stop:
				due = n
			default:
			}
		}
		select {
		case <-tick.C:
			continue
		case <-stop:
		}
		close(says)
		acks.Wait()
		w.mu.Lock()
		w.now.Flushed = true
		w.mu.Unlock()
		return
	}
}

// reportLoop writes the current report at intervals, and a last time when done is closed.
func (w *writer) reportLoop(done <-chan struct{}) {
	tick := time.NewTicker(reportInterval)
	defer tick.Stop()
	for last := false; ; {
		w.mu.Lock()
		r := w.now
		w.now = report{Sent: r.Sent}
		w.mu.Unlock()
		if r.Acked != nil || r.Seen != nil || r.Flushed {
			w.out.report(r)
		}
		if last {
			return
		}
		select {
		case <-tick.C:
		case <-done:
			last = true
		}
	}
}
