// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
)

// certFile is the certificate that kube-apiserver makes itself, with its CA, in
// a directory of run.
const certFile = "pki/apiserver.crt"

// flagsOf are kube-apiserver's flags for the directory. No controllers run: no
// service account is there for the pods that a test makes, and nobody needs the
// endpoints of the server itself.
func flagsOf(dir string) []string {
	return []string{
		"--etcd-servers=unix://" + etcdSocket(dir),
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		"--endpoint-reconciler-type=none",
		"--cert-dir=" + filepath.Join(dir, filepath.Dir(certFile)),
		"--token-auth-file=" + filepath.Join(dir, tokenFile),
		"--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + filepath.Join(dir, keyFile),
		"--service-account-signing-key-file=" + filepath.Join(dir, keyFile),
		"--disable-admission-plugins=ServiceAccount",
		"--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112",
		"--allow-privileged=true",
		"--profiling=false",
		// an end waits 2 seconds for watches, not 60
		"--shutdown-send-retry-after=true",
	}
}

// serve runs kube-apiserver until ctx ends, and then until it has said goodbye
// to its clients.
func serve(ctx context.Context, listener net.Listener, dir string, more []string) error {
	o := options.NewServerRunOptions()
	flags := pflag.NewFlagSet("kube-apiserver", pflag.ContinueOnError)
	for _, set := range o.Flags().FlagSets {
		flags.AddFlagSet(set)
	}
	if err := flags.Parse(append(flagsOf(dir), more...)); err != nil {
		return fmt.Errorf("kube-apiserver's flags: %w", err)
	}
	o.SecureServing.Listener = listener
	if err := o.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	completed, err := o.Complete(ctx)
	if err != nil {
		return err
	}
	if errs := completed.Validate(); len(errs) > 0 {
		return fmt.Errorf("kube-apiserver's flags: %w", errors.Join(errs...))
	}
	return app.Run(ctx, completed)
}

// awaitReady returns when the server answers and has given itself a ClusterIP:
// from then on every Service gets one. It returns early only if ctx ends.
func awaitReady(ctx context.Context, r ready) error {
	for {
		err := get(ctx, r, "/readyz")
		if err == nil {
			err = get(ctx, r, "/api/v1/namespaces/default/services/kubernetes")
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// get asks the server and says whether the answer was 200.
func get(ctx context.Context, r ready, path string) error {
	ca, err := os.ReadFile(r.CA)
	if err != nil {
		return err // not made yet
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+r.Token)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}
