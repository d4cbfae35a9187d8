package migrate

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// What the parts of a switch by hand say to one another: a kind and a number. That of a client is its own in the upper half,
// and that of its request in the lower one.
const (
	switchHello   = iota + 1 // client to host: this connection is that of the client with this number
	switchWelcome            // the answer of the host that has the token
	switchDo                 // client to host: a request
	switchDone               // its answer, if the host has the token
	switchMoved              // host to client, unasked or as the answer to a request: the other host has the token
	switchCopy               // host to host: so many requests were done
	switchCopied             // its answer: only then the request is answered
	switchStop               // name service to host: give the token away
	switchToken              // host to host: here it is, and how many requests were done
	switchTaken              // host to name service: it has come
)

const switchFrame = 9

func switchMessage(kind byte, n uint64) []byte { return binary.BigEndian.AppendUint64([]byte{kind}, n) }

func readSwitch(r io.Reader, buf []byte) (kind byte, n uint64, err error) {
	_, err = io.ReadFull(r, buf[:switchFrame])
	return buf[0], binary.BigEndian.Uint64(buf[1:switchFrame]), err
}

// switchHost is a host of a switch by hand, in as few steps as it takes. Each request is answered when the other host has
// it, too, or that one could not go on. To move, the name service says stop; the host hands the token to the other one and
// tells its clients, each of which says who it is on a connection that it has to the other host already, and repeats there
// what it has asked for. It has nothing else: no epochs, no sessions with replies that are kept, no record that must be
// changed first, nobody who connects ahead at the right time and hangs up afterwards, nothing that would notice or survive a
// failure.
type switchHost struct {
	net limitNet // to the other host and to clients

	mu      sync.Mutex
	token   bool
	done    uint64
	clients map[uint64]net.Conn     // those that have said who they are
	copying map[uint64]switchAnswer // by what done was then
	early   []switchAnswer          // of those that came before the token
	other   net.Conn
	names   net.Conn
}

type switchAnswer struct {
	to  net.Conn
	msg []byte // of an early request: itself
}

// run serves; told "other ADDR" it connects to the other host, told "start" it has the token.
func (h *switchHost) run(names string) error {
	l, err := h.net.listen() // until the process ends
	if err != nil {
		return err
	}
	h.clients, h.copying = make(map[uint64]net.Conn), make(map[uint64]switchAnswer)
	if h.names, err = net.Dial("tcp", names); err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go h.serve(c)
		}
	}()
	go h.serve(h.names)
	fmt.Println(l.Addr())
	return obey(func(words []string) (string, error) {
		switch words[0] {
		case "other":
			if h.other, err = h.net.dial(words[1]); err == nil {
				go h.serve(h.other)
			}
		case "start":
			h.mu.Lock()
			h.token = true
			h.mu.Unlock()
			_, err = h.names.Write(switchMessage(switchTaken, 0))
		}
		return "ok", err
	})
}

func (h *switchHost) serve(c net.Conn) {
	defer c.Close()
	r, buf := bufio.NewReader(c), make([]byte, switchFrame)
	for {
		kind, n, err := readSwitch(r, buf)
		if err != nil {
			return
		}
		h.handle(c, kind, n)
	}
}

func (h *switchHost) handle(c net.Conn, kind byte, n uint64) {
	var out []switchAnswer
	h.mu.Lock()
	switch kind {
	case switchHello:
		h.clients[n>>32] = c
		out = h.welcome(out, c)
	case switchDo:
		if h.clients[n>>32] != c {
			out = append(out, switchAnswer{c, switchMessage(switchMoved, n)})
		} else {
			out = h.order(out, c, n)
		}
	case switchCopy:
		h.done = n
		out = append(out, switchAnswer{c, switchMessage(switchCopied, n)})
	case switchCopied:
		out = append(out, h.copying[n])
		delete(h.copying, n)
	case switchStop:
		h.token = false
		out = append(out, switchAnswer{h.other, switchMessage(switchToken, h.done)})
		for id, client := range h.clients {
			out = append(out, switchAnswer{client, switchMessage(switchMoved, id<<32)})
		}
		clear(h.clients)
	case switchToken:
		h.token = true
		out = append(out, switchAnswer{h.names, switchMessage(switchTaken, n)})
		early := h.early
		h.early = nil
		for _, a := range early {
			if a.msg[0] == switchDo {
				out = h.order(out, a.to, binary.BigEndian.Uint64(a.msg[1:]))
			} else {
				out = append(out, a)
			}
		}
	}
	h.mu.Unlock()
	for _, a := range out {
		a.to.Write(a.msg)
	}
}

// welcome answers a client that has said who it is, and order gives its request to the other host: now, or when the token
// has come. h.mu is held.
func (h *switchHost) welcome(out []switchAnswer, c net.Conn) []switchAnswer {
	a := switchAnswer{c, switchMessage(switchWelcome, 0)}
	if !h.token {
		h.early = append(h.early, a)
		return out
	}
	return append(out, a)
}

func (h *switchHost) order(out []switchAnswer, c net.Conn, n uint64) []switchAnswer {
	if !h.token {
		h.early = append(h.early, switchAnswer{c, switchMessage(switchDo, n)})
		return out
	}
	h.done++
	h.copying[h.done] = switchAnswer{c, switchMessage(switchDone, n)}
	return append(out, switchAnswer{h.other, switchMessage(switchCopy, h.done)})
}

// switchNames is the name service of a switch by hand: told "switch" it moves the token, and answers when that is done.
func switchNames() error {
	l, err := net.Listen("tcp", "127.0.0.1:0") // until the process ends
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var at net.Conn // has the token
	taken := make(chan struct{}, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, switchFrame)
				for {
					if _, _, err := readSwitch(c, buf); err != nil {
						return
					}
					mu.Lock()
					at = c
					mu.Unlock()
					taken <- struct{}{}
				}
			}()
		}
	}()
	fmt.Println(l.Addr())
	<-taken
	return obey(func([]string) (string, error) {
		mu.Lock()
		c := at
		mu.Unlock()
		_, err := c.Write(switchMessage(switchStop, 0))
		<-taken
		return "ok", err
	})
}

// switchClient is a client of a switch by hand.
type switchClient struct {
	id    uint64 // with that of its latest request
	conns [2]net.Conn
	at    *arrivals
	wait  chan struct{} // a request was answered

	mu     sync.Mutex
	cur    int
	asking bool
	heard  time.Time // of a switch that is not over
}

func (c *switchClient) dial(n limitNet, i int, addr string) (err error) {
	if c.conns[i], err = n.dial(addr); err != nil {
		return err
	}
	go func() { // ends with the connection
		r, buf := bufio.NewReader(c.conns[i]), make([]byte, switchFrame)
		for {
			kind, n, err := readSwitch(r, buf)
			if err != nil {
				return
			}
			c.handle(i, kind, n)
		}
	}()
	return nil
}

func (c *switchClient) handle(i int, kind byte, n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case kind == switchDone && c.asking && n == c.id:
		c.asking = false
		c.wait <- struct{}{}
	case kind == switchWelcome && !c.heard.IsZero():
		c.at.add(c.heard)
		c.heard = time.Time{}
	case kind == switchMoved && i == c.cur:
		c.heard = time.Now()
		c.cur = 1 - i
		c.hello()
	}
}

// hello says who it is, and repeats what it has asked for. c.mu is held.
func (c *switchClient) hello() {
	out := switchMessage(switchHello, c.id)
	if c.asking {
		out = append(out, switchMessage(switchDo, c.id)...)
	}
	c.conns[c.cur].Write(out)
}

func (c *switchClient) do() error {
	c.mu.Lock()
	c.asking = true
	c.id++
	c.conns[c.cur].Write(switchMessage(switchDo, c.id))
	c.mu.Unlock()
	<-c.wait
	return nil
}
