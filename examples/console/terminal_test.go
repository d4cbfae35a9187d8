package main

import (
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/term"

	"github.com/roam-go/roam/chatcore"
)

func TestTextsAboveInputLine(t *testing.T) {
	in, out, err := os.Pipe()
	require.NoError(t, err)
	defer in.Close()
	s := &terminal{out: out, restore: &term.State{}}
	s.edit.prompt = "me> "
	s.message(chatcore.Message{Kind: chatcore.KindMessage, From: "bob", Text: "ask the DJ", Time: said1})
	s.message(chatcore.Message{Kind: chatcore.KindMessage, From: "bob", Text: "it's me", NewKey: true, Time: said1})
	s.note("OJ")
	s.clear()
	require.NoError(t, out.Close())
	shown, err := io.ReadAll(in)
	require.NoError(t, err)
	const prompt = "\r\x1b[Kme> \r\x1b[4C"
	require.Contains(t, string(shown), " bob: ask the DJ\r\n"+prompt)
	require.Contains(t, string(shown), " bob (new key): it's me\r\n"+prompt)
	require.Contains(t, string(shown), "\r\x1b[K* OJ\r\n"+prompt)
	require.Contains(t, string(shown), "\r\x1b[K\x1b[H\x1b[2J"+prompt, "clear adds no line")
}
