// Checks what Hallpass's log says with the transparency log code of the Go project
// (golang.org/x/mod/sumdb), from whose signed notes and proofs the C2SP specifications came. It
// shares no line with Hallpass.
//
//	tlog checkpoint NOTE KEY...            a signed note, by the log's and witnesses' keys
//	tlog inclusion PROOF KEY...            a .tlog-proof file
//	tlog consistency OLD NEW KEY HASH...   two signed notes of the log with that key
//
// What was verified is printed; what was not ends it with an exit code of 1.
package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) < 3 {
		return errors.New("arguments are missing")
	}
	text, err := os.ReadFile(arguments[1])
	if err != nil {
		return err
	}
	switch arguments[0] {
	case "checkpoint":
		_, err := open(string(text), arguments[2:])
		return err
	case "inclusion":
		return inclusion(string(text), arguments[2:])
	case "consistency":
		if len(arguments) < 4 {
			return errors.New("arguments are missing")
		}
		newer, err := os.ReadFile(arguments[2])
		if err != nil {
			return err
		}
		return consistency(string(text), string(newer), arguments[3], arguments[4:])
	}
	return errors.New("no such command")
}

type checkpoint struct {
	size int64
	root tlog.Hash
}

// open demands a signature of each key.
func open(text string, keys []string) (*checkpoint, error) {
	var verifiers []note.Verifier
	for _, key := range keys {
		verifier, err := newVerifier(key)
		if err != nil {
			return nil, err
		}
		verifiers = append(verifiers, verifier)
	}
	opened, err := note.Open([]byte(text), note.VerifierList(verifiers...))
	if err != nil {
		return nil, err
	}
	if len(opened.Sigs) != len(keys) {
		return nil, fmt.Errorf("%d of %d keys signed it", len(opened.Sigs), len(keys))
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return nil, errors.New("it is no checkpoint")
	}
	if lines[0] != verifiers[0].Name() {
		return nil, errors.New("it is another log's")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return nil, err
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return nil, err
	}
	fmt.Printf("log %s size %d root %s\n", lines[0], size, root)
	for _, signature := range opened.Sigs {
		raw, err := base64.StdEncoding.DecodeString(signature.Base64)
		if err != nil {
			return nil, err
		}
		if len(raw) == 4+8+ed25519.SignatureSize {
			time := binary.BigEndian.Uint64(raw[4:])
			fmt.Printf("cosigned by %s at %d\n", signature.Name, time)
		}
	}
	return &checkpoint{size, root}, nil
}

// inclusion reads C2SP tlog-proof.
func inclusion(text string, keys []string) error {
	head, signed, found := strings.Cut(text, "\n\n")
	lines := strings.Split(head, "\n")
	if !found || len(lines) < 3 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return errors.New("it is no proof")
	}
	entry, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(lines[1], "extra "))
	if err != nil {
		return err
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[2], "index "), 10, 64)
	if err != nil {
		return err
	}
	hashes, err := parseHashes(lines[3:])
	if err != nil {
		return err
	}
	checkpoint, err := open(signed, keys)
	if err != nil {
		return err
	}
	leaf := tlog.RecordHash(entry)
	if err := tlog.CheckRecord(hashes, checkpoint.size, checkpoint.root, index, leaf); err != nil {
		return err
	}
	fmt.Printf("entry %d %s\n", index, entry)
	return nil
}

func consistency(older, newer, key string, lines []string) error {
	before, err := open(older, []string{key})
	if err != nil {
		return err
	}
	after, err := open(newer, []string{key})
	if err != nil {
		return err
	}
	hashes, err := parseHashes(lines)
	if err != nil {
		return err
	}
	err = tlog.CheckTree(hashes, after.size, after.root, before.size, before.root)
	if err != nil {
		return err
	}
	fmt.Printf("the log of %d continues that of %d\n", after.size, before.size)
	return nil
}

func parseHashes(lines []string) ([]tlog.Hash, error) {
	var hashes []tlog.Hash
	for _, line := range lines {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, hash)
	}
	return hashes, nil
}

// newVerifier adds the keys of witnesses (C2SP tlog-cosignature) to what the package knows.
func newVerifier(text string) (note.Verifier, error) {
	parts := strings.SplitN(text, "+", 3)
	if len(parts) == 3 {
		key, err := base64.StdEncoding.DecodeString(parts[2])
		if err == nil && len(key) == 1+ed25519.PublicKeySize && key[0] == 4 {
			sum := sha256.Sum256([]byte(parts[0] + "\n" + string(key)))
			hash := binary.BigEndian.Uint32(sum[:])
			if fmt.Sprintf("%08x", hash) != parts[1] {
				return nil, errors.New("the key's id is wrong")
			}
			return &witness{parts[0], hash, key[1:]}, nil
		}
	}
	return note.NewVerifier(text)
}

type witness struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func (w *witness) Name() string    { return w.name }
func (w *witness) KeyHash() uint32 { return w.hash }
func (w *witness) Verify(text, signature []byte) bool {
	if len(signature) != 8+ed25519.SignatureSize {
		return false
	}
	time := binary.BigEndian.Uint64(signature)
	message := fmt.Sprintf("cosignature/v1\ntime %d\n%s", time, text)
	return ed25519.Verify(w.key, []byte(message), signature[8:])
}
