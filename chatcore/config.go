package chatcore

import (
	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/transport"
)

// Config sets the limits of a room. They are part of the room's state: a room that moves keeps the limits it was created
// with, whatever the Config of the host that it moves to.
type Config struct {
	// MinParticipants is how many different participants must have joined before the chat begins: what is said before
	// then waits. Participants are counted over time and by key (by name where the transport proves no keys), so that
	// leaving does not lower the count and joining again does not raise it. 0: the chat has begun from the start. At most
	// 10,000.
	MinParticipants int

	// HistoryCount and HistoryBytes bound the latest messages kept for those who join, by number and by size: the bytes of
	// sender and text, and 32 more for each message. 0 stands for 100 and 64 KiB, at most 10,000 and 512 KiB; [NoHistory]
	// as HistoryCount keeps none.
	HistoryCount, HistoryBytes int

	// HeldCount and HeldBytes bound the messages that wait for the chat to begin, measured like the history. 0 stands for
	// 1,000 and 256 KiB, at most 10,000 and 16 MiB.
	HeldCount, HeldBytes int

	// MaxName bounds a name, in characters. 0 stands for 32, at most 64.
	MaxName int

	// MaxText bounds the text of a message, in bytes. 0 stands for 4 KiB, at most 64 KiB.
	MaxText int

	// MaxParticipants bounds those who are in the room at one time. 0 stands for 10,000, at most 100,000.
	MaxParticipants int
}

// NoHistory is the value of [Config.HistoryCount] for a room that shows newcomers nothing of what was said before.
const NoHistory = -1

// maxAddr bounds the address of a participant's own listener, in bytes.
const maxAddr = 256

// New makes the factory of a chat room for a host: each instance it makes is empty until it is restored from a snapshot.
// The error, if any, is an [ErrConfig] that names the field of cfg.
func New(cfg Config) (func() migrate.Migratable, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return func() migrate.Migratable { return newRoom(cfg) }, nil
}

// withDefaults fills the zero fields and checks all.
func (c Config) withDefaults() (Config, error) {
	for _, f := range []struct {
		name          string
		v             *int
		def, min, max int
	}{
		{"MaxParticipants", &c.MaxParticipants, 10_000, 1, 100_000},
		{"MinParticipants", &c.MinParticipants, 0, 0, 10_000},
		{"HistoryCount", &c.HistoryCount, 100, NoHistory, 10_000},
		{"HistoryBytes", &c.HistoryBytes, 64 << 10, 1, 512 << 10},
		{"HeldCount", &c.HeldCount, 1_000, 1, 10_000},
		{"HeldBytes", &c.HeldBytes, 256 << 10, 1, 16 << 20},
		{"MaxName", &c.MaxName, 32, 1, 64},
		{"MaxText", &c.MaxText, 4 << 10, 1, 64 << 10},
	} {
		if *f.v == 0 {
			*f.v = f.def
		}
		if *f.v < f.min || *f.v > f.max {
			return c, transport.Errorf(CodeConfig, "chat: Config.%s is %d, want %d to %d", f.name, *f.v, f.min, f.max)
		}
	}
	return c, nil
}
