import com.fasterxml.jackson.databind.ObjectMapper;
import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.Header;
import io.debezium.engine.format.Json;
import java.io.BufferedWriter;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStreamWriter;
import java.io.Writer;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Runs Debezium's engine on a PostgreSQL database and hands on what it says: into a file, to a Kafka broker, or nowhere.
 *
 * <p>scripts/debezium-recorder.sh starts it; without arguments it says what it takes.
 */
public final class Recorder {
    private static final String USAGE =
            """
            usage: Recorder MODE --url postgres://user:password@host:port/database --state DIRECTORY [OPTION...]

            MODE
              record     write each record as a line of JSON: {"topic", "key", "value", "headers"}
              produce    send each record to a Kafka broker, as Kafka Connect does
              count      count records, and print {"records", "elapsed_ms"} from the first to the last

            OPTIONS
              --state DIRECTORY          where the engine keeps its position
              --tables LIST              tables to capture, e.g. public.books,public.shelves; default: all
              --slot NAME                replication slot; default: debezium
              --publication NAME         publication; default: dbz_publication, made when it is missing
              --topic-prefix PREFIX      default: library
              --schemas                  wrap keys and values as {"schema", "payload"}; headers too, except to a broker
              --output FILE              record: the file; default: standard output
              --bootstrap HOST:PORT      produce: the broker
              --stop-after N             end after this many records; default: on SIGTERM
              -P NAME=VALUE              a property of the engine or of its connector, e.g. decimal.handling.mode=string,
                                         snapshot.mode=no_data, skipped.operations=none; goes first
              -K NAME=VALUE              produce: a property of the producer
            """;

    /** What is done with a batch of records. It is confirmed when this returns. */
    private interface Target extends AutoCloseable {
        void take(List<ChangeEvent<String, String>> batch) throws Exception;

        @Override
        default void close() throws IOException {}
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, String> options = new HashMap<>();
        Properties engine = new Properties();
        Properties producer = new Properties();
        if (arguments.length == 0 || !parse(arguments, options, engine, producer)) {
            System.err.print(USAGE);
            System.exit(2);
        }
        defaults(arguments[0], options, engine);
        long limit = Long.parseLong(options.getOrDefault("stop-after", "0"));
        int code;
        try (Target target = target(arguments[0], options, producer)) {
            code = run(engine, target, limit);
        }
        // Not a plain return: the engine leaves threads behind.
        Runtime.getRuntime().halt(code);
    }

    private static boolean parse(
            String[] arguments, Map<String, String> options, Properties engine, Properties producer) {
        for (int at = 1; at < arguments.length; at++) {
            String name = arguments[at];
            if (name.equals("--schemas")) {
                options.put("schemas", "true");
                continue;
            }
            if (++at == arguments.length) {
                return false;
            }
            String[] pair = arguments[at].split("=", 2);
            switch (name) {
                case "-P" -> engine.setProperty(pair[0], pair[1]);
                case "-K" -> producer.setProperty(pair[0], pair[1]);
                case "--url", "--state", "--tables", "--slot", "--publication", "--topic-prefix", "--output",
                        "--bootstrap", "--stop-after" -> options.put(name.substring(2), arguments[at]);
                default -> {
                    return false;
                }
            }
        }
        return options.containsKey("url") && options.containsKey("state");
    }

    /** Properties that were not given. */
    private static void defaults(String mode, Map<String, String> options, Properties engine) throws Exception {
        URI url = URI.create(options.get("url"));
        String[] user = url.getUserInfo().split(":", 2);
        Path state = Path.of(options.get("state"));
        Files.createDirectories(state);
        String schemas = options.getOrDefault("schemas", "false");
        Map<String, String> defaults = new HashMap<>();
        defaults.put("name", "recorder");
        defaults.put("connector.class", "io.debezium.connector.postgresql.PostgresConnector");
        defaults.put("offset.storage", "org.apache.kafka.connect.storage.FileOffsetBackingStore");
        defaults.put("offset.storage.file.filename", state.resolve("offsets").toString());
        defaults.put("offset.flush.interval.ms", "1000");
        defaults.put("database.hostname", url.getHost());
        defaults.put("database.port", String.valueOf(url.getPort() < 0 ? 5432 : url.getPort()));
        defaults.put("database.user", user[0]);
        defaults.put("database.password", user.length > 1 ? user[1] : "");
        defaults.put("database.dbname", url.getPath().substring(1));
        defaults.put("plugin.name", "pgoutput");
        defaults.put("slot.name", options.getOrDefault("slot", "debezium"));
        defaults.put("publication.name", options.getOrDefault("publication", "dbz_publication"));
        defaults.put("topic.prefix", options.getOrDefault("topic-prefix", "library"));
        defaults.put("key.converter.schemas.enable", schemas);
        defaults.put("value.converter.schemas.enable", schemas);
        // Kafka Connect writes headers without a schema unless configured otherwise, independently of keys and values.
        defaults.put("header.converter.schemas.enable", mode.equals("produce") ? "false" : schemas);
        if (options.containsKey("tables")) {
            defaults.put("table.include.list", options.get("tables"));
        }
        defaults.forEach(engine::putIfAbsent);
    }

    private static Target target(String mode, Map<String, String> options, Properties producer) throws Exception {
        return switch (mode) {
            case "record" -> new Lines(options.get("output"));
            case "produce" -> new Broker(options.get("bootstrap"), producer);
            case "count" -> new Counter();
            default -> throw new IllegalArgumentException("no such mode: " + mode);
        };
    }

    /** Runs the engine until {@code limit} records are there, or somebody ends the program; returns the exit code. */
    private static int run(Properties properties, Target target, long limit) throws Exception {
        CountDownLatch enough = new CountDownLatch(1);
        AtomicBoolean failed = new AtomicBoolean();
        long[] records = {0};
        DebeziumEngine<ChangeEvent<String, String>> engine = DebeziumEngine.create(Json.class, Json.class, Json.class)
                .using(properties)
                .using((success, message, error) -> {
                    if (!success) {
                        System.err.println("the engine failed: " + message);
                        if (error != null) {
                            error.printStackTrace();
                        }
                        failed.set(true);
                    }
                    enough.countDown();
                })
                .notifying((batch, committer) -> {
                    List<ChangeEvent<String, String>> wanted = batch;
                    if (limit > 0) {
                        wanted = batch.subList(0, (int) Math.min(batch.size(), limit - records[0]));
                    }
                    try {
                        target.take(wanted);
                    } catch (InterruptedException error) {
                        throw error;
                    } catch (Exception error) {
                        throw new RuntimeException(error);
                    }
                    for (ChangeEvent<String, String> event : wanted) {
                        committer.markProcessed(event);
                    }
                    committer.markBatchFinished();
                    records[0] += wanted.size();
                    if (limit > 0 && records[0] >= limit) {
                        enough.countDown();
                    }
                })
                .build();
        Thread runner = new Thread(engine, "engine");
        CountDownLatch done = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            enough.countDown();
            try {
                done.await(30, TimeUnit.SECONDS);
            } catch (InterruptedException ended) {
                Thread.currentThread().interrupt();
            }
        }));
        runner.start();
        enough.await();
        try {
            engine.close();
        } catch (IllegalStateException ended) {
            // The engine has ended by itself.
        }
        runner.join(TimeUnit.SECONDS.toMillis(20));
        target.close();
        done.countDown();
        return failed.get() ? 1 : 0;
    }

    /** Writes lines of JSON. */
    private static final class Lines implements Target {
        private final Writer out;

        Lines(String file) throws Exception {
            var stream = file == null ? System.out : new FileOutputStream(file, true);
            out = new BufferedWriter(new OutputStreamWriter(stream, StandardCharsets.UTF_8));
        }

        @Override
        public void take(List<ChangeEvent<String, String>> batch) throws Exception {
            for (ChangeEvent<String, String> event : batch) {
                // Keys, values and headers are JSON already.
                out.write("{\"topic\":\"" + event.destination() + "\",\"key\":" + event.key() + ",\"value\":"
                        + event.value() + ",\"headers\":{");
                String comma = "";
                for (Header<String> header : Recorder.headers(event)) {
                    out.write(comma + "\"" + header.getKey() + "\":" + header.getValue());
                    comma = ",";
                }
                out.write("}}\n");
            }
            out.flush();
        }

        @Override
        public void close() throws IOException {
            out.flush();
        }
    }

    /** Sends to a broker, and waits until it has everything. */
    private static final class Broker implements Target {
        private final KafkaProducer<byte[], byte[]> producer;
        private final ObjectMapper mapper = new ObjectMapper();

        Broker(String bootstrap, Properties given) {
            Properties properties = new Properties();
            properties.put("bootstrap.servers", bootstrap);
            properties.put("acks", "all");
            // A worker of Kafka Connect sets this too.
            properties.put("max.in.flight.requests.per.connection", "1");
            properties.put("delivery.timeout.ms", String.valueOf(Integer.MAX_VALUE));
            properties.putAll(given);
            producer = new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer());
        }

        @Override
        public void take(List<ChangeEvent<String, String>> batch) throws Exception {
            List<Future<RecordMetadata>> sent = new ArrayList<>(batch.size());
            for (ChangeEvent<String, String> event : batch) {
                var record = new ProducerRecord<>(event.destination(), bytes(event.key()), bytes(event.value()));
                for (Header<String> header : Recorder.headers(event)) {
                    record.headers().add(header.getKey(), bytes(plain(header.getValue())));
                }
                sent.add(producer.send(record));
            }
            producer.flush();
            for (Future<RecordMetadata> future : sent) {
                future.get();
            }
        }

        /** A header that is a text is written without quotes by Kafka Connect, and anything else as JSON. */
        private String plain(String json) throws IOException {
            return json != null && json.startsWith("\"") ? mapper.readValue(json, String.class) : json;
        }

        @Override
        public void close() {
            producer.close();
        }
    }

    /** Counts. */
    private static final class Counter implements Target {
        private long records;
        private long first;
        private long last;

        @Override
        public void take(List<ChangeEvent<String, String>> batch) {
            last = System.nanoTime();
            if (records == 0) {
                first = last;
            }
            records += batch.size();
        }

        @Override
        public void close() {
            if (records >= 0) {
                System.out.println("{\"records\":" + records + ",\"elapsed_ms\":" + (last - first) / 1_000_000 + "}");
                records = -1;
            }
        }
    }

    private static List<Header<String>> headers(ChangeEvent<String, String> event) {
        return event.<String>headers();
    }

    private static byte[] bytes(String text) {
        return text == null ? null : text.getBytes(StandardCharsets.UTF_8);
    }

    private Recorder() {}
}
