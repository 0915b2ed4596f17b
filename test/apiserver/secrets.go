// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Files in a directory of run: who the test is, and what signs the tokens of
// service accounts.
const (
	tokenFile = "tokens.csv"
	keyFile   = "accounts.key"
)

// writeSecrets makes the files of secrets that dir lacks and returns the token
// of a member of system:masters.
func writeSecrets(dir string) (token string, err error) {
	key := filepath.Join(dir, keyFile)
	if _, err := os.Stat(key); os.IsNotExist(err) {
		if err := writeKey(key); err != nil {
			return "", err
		}
	}
	path := filepath.Join(dir, tokenFile)
	b, err := os.ReadFile(path)
	if err == nil {
		token, _, _ = strings.Cut(string(b), ",")
		return token, nil
	}
	if !os.IsNotExist(err) {
		return "", err
	}
	token = rand.Text()
	// token, user, its id, groups
	return token, os.WriteFile(path, fmt.Appendf(nil, "%s,admin,admin,system:masters\n", token), 0o600)
}

func writeKey(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}
