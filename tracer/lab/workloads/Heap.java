// SPDX-License-Identifier: GPL-2.0-only
/*
 * Heap ENTRIES CHANGES SEED
 *
 * A hash map of ENTRIES customers, each with strings, a list of orders and references to others.
 * Then CHANGES times a random customer's neighbours are walked; of three such, one is replaced by
 * a new one, one is given another order, one is only read. Every second of them, at random, is of
 * the last tenth. What the walks found is printed.
 */
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;

public final class Heap {
	private static final String[] WORDS = {
		"amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "harbour", "island",
		"juniper", "kestrel", "lagoon", "meadow", "north", "orchard", "prairie", "quarry",
		"river", "summit", "tundra", "upland", "valley", "willow", "yarrow",
	};

	private record Order(long number, long cents, String item) {}

	private static final class Customer {
		final String name, mail;
		final List<Order> orders = new ArrayList<>(2);
		final Customer[] knows = new Customer[3];

		Customer(String key, Random random) {
			name = word(random) + " " + word(random);
			mail = key + "@" + word(random) + ".example";
		}
	}

	private static String word(Random random) {
		return WORDS[random.nextInt(WORDS.length)];
	}

	private static Order order(Random random) {
		String item = word(random) + "-" + random.nextInt(100_000);
		return new Order(random.nextLong(), random.nextInt(100_000), item);
	}

	private static String key(int entries, Random random) {
		int tenth = entries / 10;
		boolean late = random.nextBoolean();
		return "c" + (late ? entries - 1 - random.nextInt(tenth) : random.nextInt(entries));
	}

	private static Customer customer(
			String key, Map<String, Customer> all, int entries, Random random) {
		Customer made = new Customer(key, random);
		made.orders.add(order(random));
		for (int i = 0; i < made.knows.length; i++)
			made.knows[i] = all.get("c" + random.nextInt(entries));
		return made;
	}

	public static void main(String[] arguments) {
		int entries = Integer.parseInt(arguments[0]);
		int changes = Integer.parseInt(arguments[1]);
		Random random = new Random(Long.parseLong(arguments[2]));
		Map<String, Customer> all = new HashMap<>();
		long cents = 0;
		int kinds = 3;

		for (int i = 0; i < entries; i++)
			all.put("c" + i, customer("c" + i, all, Math.max(1, i), random));
		System.out.println("customers: " + all.size());
		for (int i = 0; i < changes; i++) {
			String key = key(entries, random);
			Customer found = all.get(key);

			for (Customer known : found.knows)
				if (known != null)
					for (Order one : known.orders)
						cents += one.cents();
			if (i % kinds == 0)
				all.put(key, customer(key, all, entries, random));
			else if (i % kinds == 1)
				found.orders.set(found.orders.size() - 1, order(random));
		}
		System.out.println("cents seen: " + cents);
		Runtime heap = Runtime.getRuntime();
		System.out.println("MiB in use: " + (heap.totalMemory() - heap.freeMemory() >> 20));
	}
}
