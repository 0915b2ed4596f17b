# SPDX-License-Identifier: Apache-2.0
# The image: one static binary, and nothing else. `make image` makes it without a registry, with what stands in for
# the stage "build" made on this machine by the same target; with one: docker buildx build --platform linux/amd64,linux/arm64 .
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETARCH
ARG VERSION=
WORKDIR /src
COPY . .
RUN make image-root IMAGE_ROOT=/image GOARCH=$TARGETARCH ${VERSION:+VERSION=$VERSION}

FROM scratch
LABEL org.opencontainers.image.title=waggle \
      org.opencontainers.image.description="Kubernetes Services by eBPF, in place of kube-proxy" \
      org.opencontainers.image.source=https://github.com/waggle-lb/waggle \
      org.opencontainers.image.licenses=Apache-2.0
COPY --from=build /image/ /
ENTRYPOINT ["/usr/local/bin/waggle"]
