// SPDX-License-Identifier: Apache-2.0
// The methods of etcd's services, and how their messages become bytes.

#if Etcd

import GRPCCore
import SyncerEngine

/// A method of etcd with the types of its messages.
struct EtcdMethod<Request: WireEncodable, Response: WireDecodable>: Sendable {
    let descriptor: MethodDescriptor

    init(_ service: String, _ method: String) {
        descriptor = MethodDescriptor(fullyQualifiedService: "etcdserverpb.\(service)", method: method)
    }
}

extension EtcdMethod<RangeRequest, RangeResponse> {
    static var range: Self { Self("KV", "Range") }
}

extension EtcdMethod<WatchRequest, WatchResponse> {
    static var watch: Self { Self("Watch", "Watch") }
}

extension EtcdMethod<AuthenticateRequest, AuthenticateResponse> {
    static var authenticate: Self { Self("Auth", "Authenticate") }
}

struct WireSerializer<Message: WireEncodable>: MessageSerializer {
    func serialize<Bytes: GRPCContiguousBytes>(_ message: Message) -> Bytes { Bytes(message.encoded) }
}

/// A message that was received, with its size.
struct Received<Message: Sendable>: Sendable {
    let message: Message
    let byteCount: Int
}

/// Reads a message, or says why that failed. It does not throw, because gRPC would replace the
/// error by another one.
struct WireDeserializer<Message: WireDecodable>: MessageDeserializer {
    func deserialize<Bytes: GRPCContiguousBytes>(_ bytes: Bytes) -> Result<Received<Message>, DatastoreError> {
        bytes.withUnsafeBytes { bytes in
            do throws(WireError) {
                var reader = WireReader(bytes)
                return .success(Received(message: try Message(from: &reader), byteCount: bytes.count))
            } catch {
                return .failure(DatastoreError(.malformed, error.description))
            }
        }
    }
}

#endif
