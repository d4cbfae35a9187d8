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
)

// crew is the processes of the tour.
type crew struct {
	program string
	heard   chan heard
	members []*member
	wg      sync.WaitGroup // their readers
	done    chan struct{}  // closed when nobody listens to heard any more
}

// member is one process.
type member struct {
	part
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	log    *tail
	ended  chan struct{} // closed when the process is gone
	killed bool          // by the tour, on purpose
}

// heard is a report of a member; gone when it has ended.
type heard struct {
	from *member
	report
	gone bool
	err  error
}

func newCrew() (*crew, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return &crew{program: program, heard: make(chan heard, 64), done: make(chan struct{})}, nil
}

// start starts a process.
func (c *crew) start(p part) (*member, error) {
	config, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	m := &member{part: p, log: &tail{}, ended: make(chan struct{})}
	m.cmd = exec.Command(c.program)
	m.cmd.Env = append(os.Environ(), partEnv+"="+string(config))
	m.cmd.Stderr = m.log
	if m.stdin, err = m.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	c.members = append(c.members, m)
	c.wg.Go(func() { c.listen(m, out) })
	return m, nil
}

// listen passes on the reports of a member, and that it is gone.
func (c *crew) listen(m *member, out io.Reader) {
	in := bufio.NewReader(out)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			break
		}
		h := heard{from: m}
		if err := json.Unmarshal(line, &h.report); err != nil {
			h.Error = fmt.Sprintf("it wrote %q", bytes.TrimSpace(line))
		}
		c.say(h)
	}
	err := m.cmd.Wait()
	close(m.ended)
	c.say(heard{from: m, gone: true, err: err})
}

func (c *crew) say(h heard) {
	select {
	case c.heard <- h:
	case <-c.done:
	}
}

func (m *member) tell(command string) { io.WriteString(m.stdin, command+"\n") }

// kill ends a member as a power failure would.
func (m *member) kill() {
	m.killed = true
	m.cmd.Process.Kill()
}

// leaveTime is how long a member may take to leave.
const leaveTime = 8 * time.Second

// dismiss ends all members: those who write first, the DNS last. It returns when they are gone.
func (c *crew) dismiss() {
	select {
	case <-c.done:
		return
	default:
	}
	close(c.done)
	for _, role := range []string{"client", "host", "dns"} {
		for _, m := range c.members {
			if m.Role == role {
				m.stdin.Close()
			}
		}
		timeout := time.After(leaveTime)
		for _, m := range c.members {
			if m.Role != role {
				continue
			}
			select {
			case <-m.ended:
			case <-timeout:
				m.cmd.Process.Kill()
				<-m.ended
			}
		}
	}
	c.wg.Wait()
}

// tail keeps the last lines of a log, for when something goes wrong.
type tail struct {
	mu sync.Mutex
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
