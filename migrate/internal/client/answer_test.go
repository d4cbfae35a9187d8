package client

import (
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

func TestClassify(t *testing.T) {
	encode := func(v any) []byte {
		b, err := transport.Marshal(v)
		require.NoError(t, err)
		return b
	}
	remote := func(code transport.Code, data []byte) error {
		return &transport.Error{Code: code, Message: "m", Data: data, Remote: true}
	}
	placed := encode(&wire.AppliedData{Index: 9, Data: []byte{0x01}})
	record := encode(&resolver.Record{Name: "x", Epoch: 3})
	for name, tc := range map[string]struct {
		result []byte
		err    error
		want   outcome
		index  uint64
	}{
		"reply":                {result: encode(&wire.DoResult{Index: 4, Reply: []byte("r")}), want: outcomeDone, index: 4},
		"garbage":              {result: []byte{0xc1}, want: outcomeRetry},
		"service's error":      {err: remote(1234, placed), want: outcomeDone, index: 9},
		"the same, odd code":   {err: remote(wire.CodeNotActive, placed), want: outcomeDone, index: 9},
		"not active":           {err: remote(wire.CodeNotActive, record), want: outcomeNotActive},
		"no place in the log":  {err: remote(wire.CodeApplication, encode(&wire.AppliedData{})), want: outcomeNotActive},
		"retry":                {err: remote(wire.CodeRetry, nil), want: outcomeRetry},
		"out of order":         {err: remote(wire.CodeOutOfOrder, nil), want: outcomeRetry},
		"too large":            {err: remote(wire.CodeTooLarge, nil), want: outcomeRefused},
		"reply too large":      {err: remote(wire.CodeTooLarge, placed), want: outcomeDone, index: 9},
		"reply gone":           {err: remote(wire.CodeReplyGone, nil), want: outcomeDone},
		"expired":              {err: remote(wire.CodeSessionExpired, nil), want: outcomeEnded},
		"forbidden":            {err: remote(wire.CodeForbidden, nil), want: outcomeEnded},
		"not a member":         {err: remote(transport.CodeNotMember, nil), want: outcomeEnded},
		"state lost":           {err: remote(wire.CodeStateLost, nil), want: outcomeEnded},
		"unknown":              {err: remote(transport.CodeUnknown, nil), want: outcomeNotActive},
		"connection ended":     {err: io.EOF, want: outcomeBroken},
		"expired, said by us":  {err: wire.ErrSessionExpired, want: outcomeBroken},
		"transport closed":     {err: transport.ErrClosed, want: outcomeBroken},
		"wrapped remote error": {err: errors.Join(remote(wire.CodeRetry, nil)), want: outcomeRetry},
	} {
		t.Run(name, func(t *testing.T) {
			a := classify(tc.result, tc.err)
			require.Equal(t, tc.want, a.outcome)
			require.Equal(t, tc.index, a.index)
			if tc.index == 9 {
				e, ok := errors.AsType[*transport.Error](a.err)
				require.True(t, ok)
				require.Equal(t, []byte{0x01}, e.Data, "the service's own")
			}
		})
	}
}
