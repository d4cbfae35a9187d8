package machine

import (
	"errors"
	"strings"
	"time"

	"github.com/roam-go/roam/migrate/internal/binenc"
	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// command converts e, without the session's key and with an Emit that does nothing.
func (m *Machine) command(e core.Entry) Command {
	return Command{
		Index: e.Index, Epoch: e.Epoch, Time: time.UnixMilli(max(m.time, e.Time)).UTC(),
		Session: e.Session, Seq: e.Seq, Body: e.Body, Emit: discard,
	}
}

// key returns the key of a session that is open or being opened.
func (m *Machine) key(session uint64) transport.Key {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.sessions.get(session); s != nil {
		return s.key
	}
	return m.inflight[session].key
}

// Validate calls the service's Validate with a command that is not ordered yet. It belongs to the applier, because it reads
// the service's state.
func (m *Machine) Validate(e core.Entry) error {
	cmd := m.command(e)
	cmd.Key = m.key(e.Session)
	if err := m.protect("Validate", func() error { return m.app.Validate(cmd) }); err != nil {
		return err
	}
	return nil
}

// Query calls the service's Query with the log time. It belongs to the applier, unless the service allows queries beside
// Apply.
func (m *Machine) Query(q Query) ([]byte, error) {
	q.Time = time.UnixMilli(m.LogTime()).UTC()
	var reply []byte
	var none bool
	err := m.protect("Query", func() (err error) {
		reply, err = m.app.Query(q)
		none = err == ErrNoQuery
		return err
	})
	switch {
	case none:
		return nil, m.errorf(wire.CodeNoQuery, "the service answers no queries")
	case err != nil:
		return nil, err
	case len(reply) > m.lim.MaxReply:
		return nil, m.errorf(wire.CodeTooLarge, "answer to a query of %d bytes, more than %d", len(reply), m.lim.MaxReply)
	}
	return reply, nil
}

// protect calls the service where it must not emit. It may run beside Apply.
func (m *Machine) protect(method string, f func() error) (failed *transport.Error) {
	defer func() {
		if v := recover(); v != nil {
			failed = m.panicked(method, v)
		}
	}()
	return m.serviceError(f())
}

// serviceError converts an error of the service for the log and for clients; nil stays nil. The library's own codes would
// mislead a client, so most of them become CodeApplication.
func (m *Machine) serviceError(err error) *transport.Error {
	if err == nil {
		return nil
	}
	e := &transport.Error{Code: wire.CodeApplication, Message: strings.ToValidUTF8(err.Error(), "\uFFFD")}
	if t, ok := errors.AsType[*transport.Error](err); ok {
		if len(t.Data) > 0 {
			e.Data = t.Data
		}
		if t.Code >= 300 || t.Code == wire.CodeForbidden || t.Code == wire.CodeTooLarge || t.Code == wire.CodeNoQuery {
			e.Code = t.Code
		}
	}
	if len(e.Message)+len(e.Data) > m.lim.MaxReply {
		return m.errorf(wire.CodeApplication, "error of %d bytes, more than %d", len(e.Message)+len(e.Data), m.lim.MaxReply)
	}
	return e
}

// RefusalBody encodes an error of [Machine.Validate] as the body of a Refusal: uvarints of the code and of the message's
// length, the message, the data.
func RefusalBody(err error) []byte {
	e, ok := errors.AsType[*transport.Error](err)
	if !ok {
		e = transport.Errorf(wire.CodeApplication, "%s", err.Error())
	}
	b := make([]byte, 0, 16+len(e.Message)+len(e.Data))
	b = binenc.AppendUvarints(b, uint64(e.Code))
	b = binenc.AppendBytes(b, e.Message)
	return append(b, e.Data...)
}

func readRefusal(b []byte) (*transport.Error, bool) {
	var code uint64
	b, ok := binenc.Uvarints(b, &code)
	if !ok || code == 0 || code > 1<<32-1 {
		return nil, false
	}
	text, data, ok := binenc.Bytes(b)
	if !ok {
		return nil, false
	}
	e := &transport.Error{Code: transport.Code(code), Message: string(text)}
	if len(data) > 0 {
		e.Data = data
	}
	return e, true
}
