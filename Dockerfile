# The image of the gateway: one static binary, the roots of public CAs, and nothing else.
#
#   docker build --build-arg VERSION=v1.2.3 --build-arg REVISION=$(git rev-parse HEAD) \
#     --build-arg CREATED=$(date -u +%Y-%m-%dT%H:%M:%SZ) -t registry.example/mosaic-gateway:v1.2.3 .
#
# Run it with a read-only root; /run/mosaic, where the admin socket is, is a volume. deploy.TestTheImageRuns executes
# what stands here, without Docker: keep to the instructions it knows.

FROM --platform=$BUILDPLATFORM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=devel
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
      -ldflags "-s -w -X main.version=$VERSION" -o /out/mosaic ./cmd/mosaic
RUN mkdir -p /out/run/mosaic

FROM scratch
ARG VERSION=devel
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="mosaic-gateway" \
      org.opencontainers.image.description="Federation gateway: answers other gateways within what an admin has granted" \
      org.opencontainers.image.source="https://github.com/mosaicstack/gateway" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chown=65532:65532 --chmod=700 /out/run/mosaic /run/mosaic
COPY --from=build --chmod=755 /out/mosaic /usr/local/bin/mosaic
ENV PATH=/usr/local/bin
USER 65532:65532
VOLUME /run/mosaic
EXPOSE 3000 3443
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 CMD ["/usr/local/bin/mosaic", "gateway", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/mosaic"]
CMD ["gateway", "serve"]
