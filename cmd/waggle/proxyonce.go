// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/waggle-lb/waggle/sync/kube/proxyconfig"
)

// proxyName is what kube-proxy's DaemonSet calls: by that name waggle takes
// kube-proxy's command line.
const proxyName = "kube-proxy"

// commandLine returns the arguments of what was called as argv.
func (e *env) commandLine(argv []string) []string {
	if len(argv) > 0 && filepath.Base(argv[0]) == proxyName {
		e.kubeProxy = true
		return append([]string{"run"}, argv[1:]...)
	}
	return argv[min(1, len(argv)):]
}

// once does what a flag asks for instead of running; done is false if none does.
func (f *runFlags) once(ctx context.Context, e *env) (done bool, err error) {
	switch p := &f.kube.proxy; {
	case p.version:
		return true, e.printVersion()
	case p.cleanup:
		cmd := newCleanupCommand(e)
		cmd.SetArgs([]string{"--pin-path", f.pinPath})
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		return true, cmd.ExecuteContext(ctx)
	case p.writeTo != "":
		return true, p.write(e)
	case p.initOnly:
		log := p.log(e)
		p.tell(log)
		return true, p.initialize(log)
	}
	return false, nil
}

func (e *env) printVersion() error {
	v, err := e.version()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(e.stdout, "waggle", v.Version)
	return err
}

// write writes kube-proxy's configuration file.
func (f *proxyFlags) write(e *env) error {
	text, err := proxyconfig.YAML(f.config)
	if err != nil {
		return err
	}
	if err := os.WriteFile(f.writeTo, text, 0o644); err != nil {
		return errors.Join(errors.New("--write-config-to"), err)
	}
	e.note("wrote %s", f.writeTo)
	return nil
}
