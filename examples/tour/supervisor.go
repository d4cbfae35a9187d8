package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/roam-go/roam/transport"
)

// supervisor starts and stops the child processes of the tour, which are the members of a realm.
type supervisor struct {
	program  string
	realm    *transport.Realm
	dns      transport.Peer // zero until the DNS is ready
	reports  chan childReport
	children []*child
	wg       sync.WaitGroup // goroutines that read from children
	done     chan struct{}  // closed when reports is no longer received from
}

// child is a child process.
type child struct {
	childConfig
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	log    *tail
	ended  chan struct{} // closed when the process has exited
	killed bool          // by the tour
}

// childReport is a report of a child, or the notice that it has exited.
type childReport struct {
	from *child
	report
	exited bool
	err    error
}

func newSupervisor() (*supervisor, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return &supervisor{
		program: program, realm: transport.NewRealm(), reports: make(chan childReport, 64), done: make(chan struct{}),
	}, nil
}

// start starts a child process. It is a guest of the realm if it is a client, and may host otherwise.
func (s *supervisor) start(cfg childConfig) (*child, error) {
	role := transport.RoleHost
	if cfg.Role == "client" {
		role = transport.RoleGuest
	}
	var err error
	if cfg.Code, err = s.realm.Code(role, s.dns); err != nil {
		return nil, err
	}
	config, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	c := &child{childConfig: cfg, log: &tail{}, ended: make(chan struct{})}
	c.cmd = exec.Command(s.program)
	c.cmd.Env = append(os.Environ(), childEnv+"="+string(config))
	c.cmd.Stderr = c.log
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	s.children = append(s.children, c)
	s.wg.Go(func() { s.listen(c, out) })
	return c, nil
}

// listen delivers the reports of a child until it exits.
func (s *supervisor) listen(c *child, out io.Reader) {
	in := bufio.NewReader(out)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			break
		}
		r := childReport{from: c}
		if err := json.Unmarshal(line, &r.report); err != nil {
			r.Error = fmt.Sprintf("malformed report %q", bytes.TrimSpace(line))
		}
		s.deliver(r)
	}
	err := c.cmd.Wait()
	close(c.ended)
	s.deliver(childReport{from: c, exited: true, err: err})
}

func (s *supervisor) deliver(r childReport) {
	select {
	case s.reports <- r:
	case <-s.done:
	}
}

// send sends a command to a child.
func (c *child) send(command string) { io.WriteString(c.stdin, command+"\n") }

// kill kills a child, which simulates a crash.
func (c *child) kill() {
	c.killed = true
	c.cmd.Process.Kill()
}

// stopTimeout is how long a child may take to exit.
const stopTimeout = 8 * time.Second

// stop stops all children: first the clients, then the hosts, then the DNS. It waits until they have exited.
func (s *supervisor) stop() {
	select {
	case <-s.done:
		return
	default:
	}
	close(s.done)
	for _, role := range []string{"client", "host", "dns"} {
		for _, c := range s.children {
			if c.Role == role {
				c.stdin.Close()
			}
		}
		timeout := time.After(stopTimeout)
		for _, c := range s.children {
			if c.Role != role {
				continue
			}
			select {
			case <-c.ended:
			case <-timeout:
				c.cmd.Process.Kill()
				<-c.ended
			}
		}
	}
	s.wg.Wait()
}

// tail is a writer that keeps the end of a log, for error messages.
type tail struct {
	mu sync.Mutex // guards b
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if over := len(t.b) - 4096; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
