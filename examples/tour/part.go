package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/roam-go/roam/chatcore"
	"github.com/roam-go/roam/examples/internal/cli"
	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
)

// partEnv holds the part that a process plays, as JSON. A process without it is the tour itself.
const partEnv = "ROAM_TOUR_PART"

const serviceName = "tour.example"

// part is what a process of the tour is to be.
type part struct {
	Role  string // "dns", "host" or "client"
	Name  string
	DNS   string        // where the DNS listens
	Serve bool          // for a host: create the chat
	Every time.Duration // for a host
	Rate  float64       // for a client: messages a second
}

// What the tour tells a process, a line each. When its input ends, the process ends, also when the tour has died.
const (
	cmdWrite = "write" // begin to write
	cmdStop  = "stop"  // write no more, and tell when all is acknowledged
)

// report is what a process tells the tour, a line of JSON each.
type report struct {
	Ready   string      `json:"ready,omitempty"` // it takes part; for the DNS, its address
	Role    *roleReport `json:"role,omitempty"`  // a host's role has changed
	Moved   *moveReport `json:"moved,omitempty"` // a client has followed the chat
	Sent    int         `json:"sent,omitempty"`  // how many messages a client has sent so far
	Acked   []int       `json:"acked,omitempty"` // the numbers of those that were acknowledged since the last report
	Seen    []string    `json:"seen,omitempty"`  // the texts of the messages that it saw since, in order
	Flushed bool        `json:"flushed,omitempty"`
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

// play plays the part that the environment holds, until standard input ends.
func play(config string) int {
	signal.Ignore(os.Interrupt, syscall.SIGTERM) // a Ctrl-C reaches all processes: the tour decides
	tell := &teller{out: json.NewEncoder(os.Stdout)}
	var p part
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
			err = playDNS(tell, commands)
		case "host":
			err = playHost(p, tell, commands)
		case "client":
			err = playClient(p, tell, commands)
		default:
			err = fmt.Errorf("there is no part %q", p.Role)
		}
	}
	if err != nil {
		tell.report(report{Error: cli.Printable(err.Error())})
		return 1
	}
	return 0
}

// teller writes reports.
type teller struct {
	mu  sync.Mutex
	out *json.Encoder
}

func (t *teller) report(r report) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.out.Encode(r) != nil {
		os.Exit(1) // nobody listens any more
	}
}

func playDNS(tell *teller, commands <-chan string) error {
	tr, err := cli.NewTransport("", false, nil)
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
	tell.report(report{Ready: addr})
	for range commands {
	}
	return nil
}

func (p part) process() (*cli.Process, error) {
	host, port, err := net.SplitHostPort(p.DNS)
	if err != nil {
		return nil, err
	}
	f := cli.Flags{DNSIP: host, Service: serviceName, Serve: p.Serve, Every: p.Every, Standbys: 1, Listen: "127.0.0.1:0"}
	if f.DNSPort, err = strconv.Atoi(port); err != nil {
		return nil, err
	}
	proc, err := cli.Start(context.Background(), f, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return nil, err
	}
	proc.ID = p.Name
	return proc, nil
}

func playHost(p part, tell *teller, commands <-chan string) error {
	proc, err := p.process()
	if err != nil {
		return err
	}
	err = proc.Listen(migrate.Hooks{
		Changed: func(st migrate.Status) {
			tell.report(report{Role: &roleReport{st.Role, st.Record.Epoch, len(st.Record.ISR)}})
		},
		Failed: func(_ string, err error) { tell.report(report{Error: err.Error()}) },
	})
	if err != nil {
		return err
	}
	if _, err := proc.Host(context.Background()); err != nil {
		return err
	}
	tell.report(report{Ready: p.Name})
	for range commands {
	}
	// All are leaving, so nobody is there to hand over to.
	proc.Node.Close()
	return proc.Leave(context.Background())
}

// writer is a client that writes, and tells what it sees.
type writer struct {
	part
	tell *teller
	chat *chatcore.Client

	mu  sync.Mutex
	now report // what has not been told yet
}

const tellEvery = 100 * time.Millisecond

func playClient(p part, tell *teller, commands <-chan string) error {
	proc, err := p.process()
	if err != nil {
		return err
	}
	ctx := context.Background()
	joining, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	w := &writer{part: p, tell: tell}
	w.chat, err = chatcore.Join(joining, serviceName, chatcore.ClientConfig{
		Name: p.Name, Resolver: proc.Resolver, Transport: proc.Transport, Buffer: 1 << 20, Logger: proc.Log,
	})
	if err != nil {
		return err
	}
	var reading, telling, writing sync.WaitGroup
	reading.Go(w.read)
	done := make(chan struct{})
	telling.Go(func() { w.tellNow(done) })
	tell.report(report{Ready: p.Name})

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
	telling.Wait()
	proc.Leave(ctx)
	return err
}

// read notes everything that the chat tells this client.
func (w *writer) read() {
	for m, err := range w.chat.Messages(context.Background()) {
		if err != nil {
			w.tell.report(report{Error: err.Error()})
			return
		}
		w.mu.Lock()
		switch m.Kind {
		case chatcore.KindMessage:
			w.now.Seen = append(w.now.Seen, m.Text)
		case chatcore.KindMoved:
			w.mu.Unlock()
			w.tell.report(report{Moved: &moveReport{m.Epoch, m.Host.ID, m.Planned, m.Pause}})
			w.mu.Lock()
		}
		w.mu.Unlock()
	}
}

// write says numbered texts until stop is closed, and then tells when all of them are acknowledged.
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
				w.tell.report(report{Error: fmt.Sprintf("message %d was not taken: %v", s.n, err)})
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
				w.tell.report(report{Error: err.Error()})
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

// tellNow tells what there is from time to time, and a last time when done is closed.
func (w *writer) tellNow(done <-chan struct{}) {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for last := false; ; {
		w.mu.Lock()
		r := w.now
		w.now = report{Sent: r.Sent}
		w.mu.Unlock()
		if r.Acked != nil || r.Seen != nil || r.Flushed {
			w.tell.report(r)
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
