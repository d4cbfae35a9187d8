//go:build unix

package main

import (
	"encoding/gob"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// process is the parent's view of a child.
type process struct {
	setup
	cmd  *exec.Cmd
	in   *pipe
	sink func(*process, *report)
	done chan struct{} // closed when the process has ended and its reports are read

	mu      sync.Mutex // guards what follows
	pending map[int]chan *report
	lastID  int
	status  *statusReport // a host's latest
	ready   readyReport
	ended   bool
}

// starter starts processes from one thread, because the system kills a child when the thread that started it ends.
type starter struct {
	orders chan func()
	done   chan struct{}
}

func newStarter() *starter {
	s := &starter{make(chan func()), make(chan struct{})}
	go func() {
		runtime.LockOSThread()
		defer close(s.done)
		for f := range s.orders {
			f()
		}
	}()
	return s
}

func (s *starter) start(cmd *exec.Cmd) error {
	errc := make(chan error, 1)
	s.orders <- func() { errc <- cmd.Start() }
	return <-errc
}

func (s *starter) close() {
	close(s.orders)
	<-s.done
}

// readyWait bounds the start of a process.
const readyWait = 5 * time.Minute

// run starts a child and waits until it is ready. It passes each report to sink, one at a time.
func (s *starter) run(cfg setup, wrap []string, sink func(*process, *report)) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := append(wrap, exe)
	p := &process{setup: cfg, cmd: exec.Command(args[0], args[1:]...), sink: sink, done: make(chan struct{}),
		pending: make(map[int]chan *report)}
	p.cmd.Env = append(os.Environ(), roleEnv+"=1", "GOMAXPROCS=2")
	p.cmd.SysProcAttr = procAttr()
	logFile, err := os.OpenFile(filepath.Join(cfg.Dir, cfg.ID+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	p.cmd.Stderr = logFile
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.start(p.cmd); err != nil {
		return nil, err
	}
	fmt.Fprintf(logFile, "--- process %d\n", p.cmd.Process.Pid)
	p.in = newPipe(stdin)
	ready := make(chan *report, 1)
	go func() {
		defer close(p.done)
		dec := gob.NewDecoder(stdout)
		for first := true; ; {
			rep := new(report)
			if dec.Decode(rep) != nil {
				break
			}
			if first && (rep.Ready != nil || rep.Err != "") {
				if rep.Ready != nil {
					p.mu.Lock()
					p.ready = *rep.Ready
					p.mu.Unlock()
				}
				ready <- rep
				first = false
				continue
			}
			p.take(rep)
		}
		p.cmd.Wait()
		p.over()
	}()
	if err := p.in.send(cfg); err != nil {
		p.kill()
		return nil, fmt.Errorf("%s: %w", cfg.ID, err)
	}
	select {
	case rep := <-ready:
		if rep.Err != "" {
			p.kill()
			return nil, fmt.Errorf("%s: %s", cfg.ID, rep.Err)
		}
		return p, nil
	case <-p.done:
		return nil, fmt.Errorf("%s ended during its start: see %s", cfg.ID, logFile.Name())
	case <-time.After(readyWait):
		p.kill()
		return nil, fmt.Errorf("%s is not ready after %s: see %s", cfg.ID, readyWait, logFile.Name())
	}
}

func (p *process) take(rep *report) {
	if rep.Status != nil {
		p.mu.Lock()
		p.status = rep.Status
		p.mu.Unlock()
	}
	p.sink(p, rep)
	if rep.ID == 0 {
		return
	}
	p.mu.Lock()
	c := p.pending[rep.ID]
	delete(p.pending, rep.ID)
	p.mu.Unlock()
	if c != nil {
		c <- rep
	}
}

// over ends all waits for answers.
func (p *process) over() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	for _, c := range p.pending {
		close(c)
	}
	p.pending = nil
}

var errEnded = errors.New("the process has ended")

// ask sends an order and waits for the answer.
func (p *process) ask(o order, timeout time.Duration) (*report, error) {
	c := make(chan *report, 1)
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return nil, errEnded
	}
	p.lastID++
	o.ID = p.lastID
	p.pending[o.ID] = c
	p.mu.Unlock()
	if err := p.in.send(o); err != nil {
		return nil, err
	}
	select {
	case rep, ok := <-c:
		if !ok {
			return nil, errEnded
		}
		if rep.Err != "" {
			return rep, errors.New(rep.Err)
		}
		return rep, nil
	case <-time.After(timeout):
		return nil, fmt.Errorf("%s did not answer %q within %s", p.ID, o.Op, timeout)
	}
}

func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	p.cmd.Process.Signal(sig)
}

// kill ends the process by SIGKILL and returns when it is gone.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// inc is a host's incarnation.
func (p *process) inc() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ready.Inc
}

// addr is the address that it listens at.
func (p *process) addr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ready.Addr
}

// latest returns the last report of a host; nil if it is dead or has not reported.
func (p *process) latest() *statusReport {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return nil
	}
	return p.status
}
