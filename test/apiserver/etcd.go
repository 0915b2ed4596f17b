// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/embed"
)

// Heartbeats and elections of the only member, in milliseconds: it waits for
// nobody.
const (
	etcdTick     = 10
	etcdElection = 100
)

// etcdSocket is where etcd of a directory serves. A socket's path has at most
// 107 bytes (unix(7)).
func etcdSocket(dir string) string { return filepath.Join(dir, "etcd.sock") }

// startEtcd starts etcd on sockets in dir and returns when it serves.
func startEtcd(ctx context.Context, dir string) (*embed.Etcd, error) {
	c := embed.NewConfig()
	c.Dir = filepath.Join(dir, "etcd")
	client := url.URL{Scheme: "unix", Path: etcdSocket(dir)}
	peer := url.URL{Scheme: "unix", Path: filepath.Join(dir, "peer.sock")}
	for _, path := range []string{client.Path, peer.Path} {
		if len(path) > 107 {
			return nil, fmt.Errorf("%s is too long for the path of a socket: give -dir a shorter one", path)
		}
		// one that was killed has left its own
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return nil, err
		}
	}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.TickMs, c.ElectionMs = etcdTick, etcdElection
	// What the page cache has outlives the process, and no test outlives the
	// machine.
	c.UnsafeNoFsync = true
	c.LogLevel = "error"
	etcd, err := embed.StartEtcd(c)
	if err != nil {
		return nil, fmt.Errorf("start etcd in %s: %w", c.Dir, err)
	}
	select {
	case <-etcd.Server.ReadyNotify():
		return etcd, nil
	case err := <-etcd.Err():
		etcd.Close()
		return nil, fmt.Errorf("start etcd in %s: %w", c.Dir, err)
	case <-ctx.Done():
		etcd.Close()
		return nil, ctx.Err()
	}
}
